//! Everything that is logged in this process, at every level, and every panic of a gateway's thread.

use std::io;
use std::sync::{Mutex, Once};

static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());
static START: Once = Once::new();

/// Begins to record.
pub(super) fn record() {
    START.call_once(|| {
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(|| Writer)
            .finish();
        tracing::subscriber::set_global_default(subscriber).unwrap();
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if std::thread::current().name().is_some_and(|name| name.starts_with("core-")) {
                PANICS.lock().unwrap().push(panic.to_string());
            }
            before(panic);
        }));
    });
}

/// Whether the log holds this text.
pub(crate) fn holds(text: &str) -> bool {
    let log = LOG.lock().unwrap();
    String::from_utf8_lossy(&log).contains(text)
}

/// The lines that hold this text.
pub(crate) fn lines(with: &str) -> Vec<String> {
    let log = LOG.lock().unwrap();
    String::from_utf8_lossy(&log).lines().filter(|line| line.contains(with)).map(str::to_owned).collect()
}

/// Memory that the record takes, in bytes.
pub(crate) fn capacity() -> usize {
    LOG.lock().unwrap().capacity()
}

/// Panics of gateways so far.
pub(super) fn panics() -> Vec<String> {
    PANICS.lock().unwrap().clone()
}

struct Writer;

impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOG.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
