//! How many requests there were lately.

use std::collections::VecDeque;
use std::time::Duration;

/// The time that one figure stands for.
pub const STEP: Duration = Duration::from_secs(5);
/// How many figures are kept: five minutes.
pub const KEPT: usize = 60;

/// Requests in each [`STEP`] of the last minutes.
#[derive(Clone, Debug, Default)]
pub struct History {
    total: u64,
    counts: VecDeque<u32>,
}

impl History {
    /// Notes, at the end of a step, how many requests there have been in all.
    pub fn note(&mut self, total: u64) {
        let count = u32::try_from(total.saturating_sub(self.total)).unwrap_or(u32::MAX);
        self.total = total;
        if self.counts.len() == KEPT {
            self.counts.pop_front();
        }
        self.counts.push_back(count);
    }

    /// The figures, the latest last.
    #[must_use]
    pub fn counts(&self) -> Vec<u32> {
        self.counts.iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_minutes_are_kept() {
        let mut history = History::default();
        for total in 1..=100 {
            history.note(total * 2);
        }
        assert_eq!(history.counts(), vec![2; KEPT]);
        history.note(207);
        assert_eq!(history.counts().last(), Some(&7));
        // A count that went back (it was lost) is no request.
        history.note(0);
        assert_eq!(history.counts().last(), Some(&0));
    }
}
