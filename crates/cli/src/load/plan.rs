//! When which call is due.

use std::time::Duration;

use tokio::time::Instant;

/// What sets the pace.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pace {
    /// Each client calls again when it has its answer: the closed loop.
    Answers,
    /// Calls are due at this rate, in calls per second, whether or not earlier ones are answered: the open loop.
    Rate(f64),
}

/// The run from its start to its end: ramp, warm-up, and what is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) pace: Pace,
    pub(crate) clients: usize,
    pub(crate) ramp: Duration,
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
}

impl Plan {
    /// When the open loop's call of this number is due, behind the start. In the ramp the rate grows evenly.
    pub(crate) fn due(&self, number: u64) -> Option<Duration> {
        let Pace::Rate(rate) = self.pace else { return None };
        let (number, ramp) = (number as f64, self.ramp.as_secs_f64());
        let in_ramp = rate * ramp / 2.0;
        let seconds = if number < in_ramp {
            (2.0 * number * ramp / rate).sqrt()
        } else {
            ramp + (number - in_ramp) / rate
        };
        // Behind the end of any run, it makes no difference how far.
        Some(Duration::from_secs_f64(seconds.min(10.0 * LONGEST)))
    }

    /// When the closed loop's client of this number begins, behind the start: one after the other in the ramp.
    pub(crate) fn begins(&self, client: usize) -> Duration {
        match self.pace {
            Pace::Answers => self.ramp.mul_f64(client as f64 / self.clients.max(1) as f64),
            Pace::Rate(_) => Duration::ZERO,
        }
    }

    /// What counts begins here, behind the start.
    pub(crate) fn measured_from(&self) -> Duration {
        self.ramp + self.warm_up
    }

    /// No call begins from here on, behind the start.
    pub(crate) fn ends(&self) -> Duration {
        self.measured_from() + self.measured
    }
}

/// A plan that has begun.
#[derive(Clone, Copy)]
pub(crate) struct Begun {
    pub(crate) plan: Plan,
    pub(crate) start: Instant,
}

impl Begun {
    /// Whether a call that begins or is due then counts.
    pub(crate) fn counts(&self, at: Instant) -> bool {
        at >= self.start + self.plan.measured_from() && at < self.end()
    }

    /// No call begins from here on.
    pub(crate) fn end(&self) -> Instant {
        self.start + self.plan.ends()
    }
}

/// A time as it is written on the command line: `500ms`, `10s`, `2m`, or seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let (digits, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len()));
    let factor = match unit {
        "ms" => 0.001,
        "s" | "" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("a time is written 500ms, 10s or 2m".to_owned()),
    };
    let seconds = digits.parse::<f64>().ok().map(|number| number * factor);
    let seconds = seconds.filter(|seconds| (0.0..=LONGEST).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "a time is written 500ms, 10s or 2m".to_owned())
}

/// A day, in seconds: nobody measures longer.
const LONGEST: f64 = 86_400.0;

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(pace: Pace, ramp: u64) -> Plan {
        let seconds = Duration::from_secs;
        Plan { pace, clients: 4, ramp: seconds(ramp), warm_up: seconds(1), measured: seconds(10) }
    }

    #[test]
    fn calls_are_due_evenly() {
        let plan = plan(Pace::Rate(100.0), 0);
        assert_eq!(plan.due(0), Some(Duration::ZERO));
        assert_eq!(plan.due(250), Some(Duration::from_millis(2500)));
        assert!(Plan { pace: Pace::Rate(1e-300), ..plan }.due(1) > Some(plan.ends()));
    }

    #[test]
    fn in_the_ramp_half_as_many_are_due() {
        let plan = plan(Pace::Rate(100.0), 4);
        assert_eq!(plan.due(200), Some(Duration::from_secs(4)));
        assert_eq!(plan.due(50), Some(Duration::from_secs(2)), "a quarter of them in the first half");
        assert_eq!(plan.due(300), Some(Duration::from_secs(5)));
    }

    #[test]
    fn clients_of_a_closed_loop_begin_one_after_the_other() {
        let plan = plan(Pace::Answers, 4);
        let begin: Vec<_> = (0..4).map(|client| plan.begins(client).as_secs()).collect();
        assert_eq!((begin, plan.due(0)), (vec![0, 1, 2, 3], None));
        assert_eq!((plan.measured_from().as_secs(), plan.ends().as_secs()), (5, 15));
    }

    #[test]
    fn times_have_units() {
        for (text, ms) in [("500ms", 500), ("10s", 10_000), ("1.5", 1_500), ("2m", 120_000), ("0", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "s", "-1s", "1d", "1e300", "NaN", "inf", "25h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
