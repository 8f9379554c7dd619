//! What a program writes, cut into lines.

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Lines of a bounded length; longer ones are passed over.
pub(super) struct Lines<R> {
    from: R,
    buffer: BytesMut,
    limit: usize,
    /// The rest of a line that is too long is being passed over.
    passing: bool,
    /// How many were too long.
    pub(super) too_long: u64,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(super) fn new(from: R, limit: usize) -> Self {
        Lines { from, buffer: BytesMut::new(), limit, passing: false, too_long: 0 }
    }

    /// The next line, without its end; None at the end of all, or when reading fails.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        let mut seen = 0;
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.buffer[seen..]) {
                let mut line = self.buffer.split_to(seen + at + 1);
                seen = 0;
                if std::mem::take(&mut self.passing) {
                    continue;
                }
                if line.len() > self.limit + 1 {
                    self.too_long += 1;
                    continue;
                }
                line.truncate(line.len() - 1);
                if line.last() == Some(&b'\r') {
                    line.truncate(line.len() - 1);
                }
                return Some(line.freeze());
            }
            if self.buffer.len() > self.limit || self.passing {
                self.too_long += u64::from(!std::mem::replace(&mut self.passing, true));
                self.buffer.clear();
            }
            seen = self.buffer.len();
            match self.from.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_end_as_they_may_and_long_ones_are_passed_over() {
        let text = b"one\r\n\ntoo long for this\nfour\nrest";
        let mut lines = Lines::new(&text[..], 8);
        assert_eq!(lines.next().await.as_deref(), Some(&b"one"[..]));
        assert_eq!(lines.next().await.as_deref(), Some(&b""[..]));
        assert_eq!(lines.next().await.as_deref(), Some(&b"four"[..]));
        assert_eq!((lines.next().await, lines.too_long), (None, 1));

        let (mut to, from) = tokio::io::duplex(4);
        let write = async {
            let _ = tokio::io::AsyncWriteExt::write_all(&mut to, b"too long for this\nfour\n").await;
            drop(to);
        };
        let mut lines = Lines::new(from, 8);
        let read = async { (lines.next().await, lines.next().await) };
        let ((), (four, end)) = tokio::join!(write, read);
        assert_eq!((four.as_deref(), end), (Some(&b"four"[..]), None));
        assert_eq!(lines.too_long, 1);
    }
}
