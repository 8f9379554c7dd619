//! What an upstream at a URL speaks.

/// The transport of an upstream at a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// `"auto"`: Streamable HTTP, or HTTP with SSE where `initialize` is refused and a GET opens such a stream.
    Auto,
    /// `"http"`: Streamable HTTP.
    Http,
    /// `"sse"`: HTTP with SSE, of revision 2024-11-05; the URL is that of the stream.
    Sse,
}
