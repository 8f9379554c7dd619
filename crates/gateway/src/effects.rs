//! Clock, randomness and the resolver of names, injected, so that everything behind them is a function of its inputs.

use std::io;
use std::net::{IpAddr, ToSocketAddrs};

use throughline_store::Millis;

/// The outside world's inputs: what time it is, bytes nobody can guess, and where hosts are.
///
/// Function pointers rather than a trait: there is one of each in a process, and a test replaces any
/// with a plain function.
#[derive(Clone, Copy, Debug)]
pub struct Effects {
    /// Wall-clock time.
    pub now: fn() -> Millis,
    /// Fills the buffer with cryptographically secure random bytes.
    pub random: fn(&mut [u8]),
    /// The addresses of a host; blocks while it looks.
    pub resolve: fn(&str) -> io::Result<Vec<IpAddr>>,
}

impl Effects {
    /// The real clock and the real random source.
    pub const REAL: Effects = Effects { now: wall_clock, random: secure_random, resolve: system_resolver };

    /// Wall-clock time.
    pub fn now(&self) -> Millis {
        (self.now)()
    }

    /// The addresses of a host; blocks while it looks.
    ///
    /// # Errors
    /// The resolver's.
    pub fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        (self.resolve)(host)
    }

    /// `N` random bytes.
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        (self.random)(&mut bytes);
        bytes
    }
}

#[allow(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
fn wall_clock() -> Millis {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Millis(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}

fn system_resolver(host: &str) -> io::Result<Vec<IpAddr>> {
    // The port is not part of the question, only of the answer's form.
    Ok((host, 0).to_socket_addrs()?.map(|address| address.ip()).collect())
}

fn secure_random(bytes: &mut [u8]) {
    // Without randomness ids could be guessed and nonces repeat: there is nothing safe to go on with.
    aws_lc_rs::rand::fill(bytes).expect("the operating system's random source works");
}
