//! What is asked of every TCP connection, on either side.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// A peer that is silent for so long is asked whether it is there.
const ASK_AFTER: Duration = Duration::from_secs(30);
const ASK_EVERY: Duration = Duration::from_secs(10);
const ASK_TIMES: u32 = 3;
/// An upstream that takes nothing of what is sent to it for so long is gone, or might as well be.
pub const TAKES_NOTHING: Duration = Duration::from_secs(60);

/// Makes sure that a peer which vanished without a word is noticed within a minute: streams would wait for ever.
/// One that takes nothing of what is sent to it for `patience` is as good as gone.
///
/// # Errors
/// When the system refuses an option.
pub fn notice_death(stream: &TcpStream, patience: Duration) -> io::Result<()> {
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(ASK_AFTER).with_interval(ASK_EVERY).with_retries(ASK_TIMES);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(patience))
}
