//! A TCP proxy that cuts connections, at bytes that a seed has drawn.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::dice::Dice;

/// Bytes after which a connection may be cut: within the first events of an answer, or in the head.
const ANSWER: u64 = 4000;
/// The same of a request.
const REQUEST: u64 = 700;

/// One that runs until it is dropped.
pub(crate) struct Cutter {
    base: String,
    address: std::net::SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    to: String,
    dice: Mutex<Dice>,
    /// How many connections are to be cut yet.
    left: AtomicU64,
    cut: AtomicU64,
    over: AtomicBool,
}

impl Cutter {
    /// In front of `http://HOST:PORT`. It cuts nothing before [`Cutter::cut`].
    pub(crate) fn start(to: &str, dice: Dice) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let shared = Arc::new(Shared {
            to: to.trim_start_matches("http://").to_owned(),
            dice: Mutex::new(dice),
            left: AtomicU64::new(0),
            cut: AtomicU64::new(0),
            over: AtomicBool::new(false),
        });
        let accepts = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if accepts.over.load(Ordering::Relaxed) {
                    return;
                }
                // Whoever is behind it may not be there; then nobody is here.
                let _ = accepts.connect(client);
            }
        });
        Self { base: format!("http://{address}"), address, shared }
    }

    /// Where it is, without a path.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// Cuts so many connections from now on.
    pub(crate) fn cut(&self, count: u64) {
        self.shared.left.store(count, Ordering::Relaxed);
    }

    /// How many it has cut.
    pub(crate) fn count(&self) -> u64 {
        self.shared.cut.load(Ordering::Relaxed)
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn connect(self: &Arc<Self>, client: TcpStream) -> io::Result<()> {
        let server = TcpStream::connect(&self.to)?;
        let (in_request, after) = {
            let mut dice = self.dice.lock().unwrap_or_else(PoisonError::into_inner);
            let in_request = dice.roll(5) == 0;
            (in_request, dice.roll(if in_request { REQUEST } else { ANSWER }))
        };
        for (from, to, cuts) in
            [(client.try_clone()?, server.try_clone()?, in_request), (server, client, !in_request)]
        {
            from.set_nodelay(true)?;
            let shared = Arc::clone(self);
            thread::spawn(move || {
                shared.pass(&from, &to, cuts.then_some(after));
                let _ = from.shutdown(Shutdown::Both);
                let _ = to.shutdown(Shutdown::Both);
            });
        }
        Ok(())
    }

    /// Passes bytes on to the end, or up to the cut.
    fn pass(&self, mut from: &TcpStream, mut to: &TcpStream, cut_after: Option<u64>) {
        let mut passed = 0;
        let mut buffer = [0; 4096];
        while let Ok(count) = from.read(&mut buffer)
            && count > 0
        {
            let rest = cut_after.map(|after| usize::try_from(after - passed).expect("a small number"));
            if let Some(rest) = rest.filter(|rest| *rest < count)
                && self.may_cut()
            {
                let _ = to.write_all(&buffer[..rest]);
                return;
            }
            if to.write_all(&buffer[..count]).is_err() {
                return;
            }
            passed = (passed + count as u64).min(cut_after.unwrap_or(u64::MAX));
        }
    }

    fn may_cut(&self) -> bool {
        let one_less = |left: u64| left.checked_sub(1);
        let may = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok();
        self.cut.fetch_add(may.into(), Ordering::Relaxed);
        may
    }
}
