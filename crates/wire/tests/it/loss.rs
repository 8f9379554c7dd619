//! The session-loss table, row by row, with the bodies that SDKs and servers send.

use proptest::prelude::*;
use throughline_wire::loss::{Answer, Sign, Verdict, modern_verdict, ping_says_alive, verdict};

use Verdict::{Alive, Lost, Suspected};

const NOT_FOUND_TS: &str =
    r#"{"jsonrpc":"2.0","error":{"code":-32001,"message":"Session not found"},"id":null}"#;
const NOT_FOUND_PYTHON: &str =
    r#"{"jsonrpc":"2.0","id":"server-error","error":{"code":-32600,"message":"Session not found"}}"#;
const HANDSHAKE_GO: &str = r#"{"jsonrpc":"2.0","id":2,"error":{"code":0,"message":"method \"tools/call\" is invalid during session initialization"}}"#;

fn answer(status: u16, head: &str) -> Answer<'_> {
    Answer { status, content_type: None, www_authenticate: false, head: head.as_bytes(), session_sent: true }
}

fn judge(status: u16, head: &str) -> Verdict {
    verdict(&answer(status, head))
}

fn judge_sessionless(status: u16, head: &str) -> Verdict {
    verdict(&Answer { session_sent: false, ..answer(status, head) })
}

#[test]
fn a_404_that_names_the_session_is_lost() {
    for body in [
        NOT_FOUND_TS,
        NOT_FOUND_PYTHON,
        r#"{"jsonrpc":"2.0","id":"server-error","error":{"code":-32600,"message":"Not Found: Session has been terminated"}}"#,
        r#"{"jsonrpc":"2.0","id":"server-error","error":{"code":-32600,"message":"Not Found: Invalid or expired session ID"}}"#,
        r#"{"error":{"code":-32001,"message":"Session not found"},"id":"","jsonrpc":"2.0"}"#,
        r#"{"jsonrpc":"2.0","error":{"code":-32000,"message":"Not Found: Unknown Mcp-Session-Id header"},"id":null}"#,
        r#"{"jsonrpc":"2.0","error":{"code":-32001,"message":"Not Found: MCP session is unknown or expired on this API instance. The client should re-initialize by sending a new InitializeRequest without a session id"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32004,"message":"Unknown session"}}"#,
        r#"{"error":"session_not_found","message":"unknown Mcp-Session-Id"}"#,
        r#"{"error":"unknown mcp-session-id"}"#,
        "Not Found: Session not found",
        "session not found\n",
        "Session terminated",
        "Invalid session ID",
        "unknown mcp-session-id: 0f8fad5b-d9cb-469f-a165-70867728950e",
        "Session 0f8fad5b-d9cb-469f-a165-70867728950e does not exist",
        "The session doesn\u{2019}t exist",
        "Could not find session for id abc",
        "No active session",
    ] {
        assert_eq!(judge(404, body), Lost(Sign::SessionNotFound), "{body}");
    }
}

#[test]
fn a_404_that_explains_nothing_is_suspected() {
    for body in [
        "",
        "<html><body><h1>404 Not Found</h1> session not found</body></html>",
        r#"{"detail":"Not Found"}"#,
        "404 page not found",
        "Cannot POST /mcp",
        "[]",
        "\u{0}\u{1}",
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32002,"message":"Resource not found in this session directory"}}"#,
    ] {
        assert_eq!(judge(404, body), Suspected(Sign::UnexplainedNotFound), "{body}");
        assert_eq!(judge_sessionless(404, body), Alive, "{body}");
    }
    // The Java SDK writes the error without its envelope.
    for body in [
        r#"{"code":-32603,"message":"Session not found: 0f8fad5b","data":null}"#,
        r#"{"code":-32603,"data":null}"#,
        r#"{"code":-32602,"message":"Session not found: 0f8fad5b"}"#,
    ] {
        assert_eq!(judge(404, body), Suspected(Sign::BareError), "{body}");
    }
}

#[test]
fn a_404_about_something_else_is_alive() {
    for body in [
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"Method not found"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"Unknown tool: get_session_not_found"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"Unknown tool: session not found"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32001,"message":"Request timed out"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"Session not found"}]}}"#,
    ] {
        assert_eq!(judge(404, body), Alive, "{body}");
    }
}

#[test]
fn a_400_of_the_missing_session_family_is_lost_with_and_without_a_session() {
    for body in [
        r#"{"jsonrpc":"2.0","error":{"code":-32000,"message":"Bad Request: Server not initialized"},"id":null}"#,
        r#"{"jsonrpc":"2.0","error":{"code":-32000,"message":"Bad Request: Mcp-Session-Id header is required"},"id":null}"#,
        r#"{"jsonrpc":"2.0","error":{"code":-32000,"message":"Bad Request: No valid session ID provided"},"id":null}"#,
        r#"{"jsonrpc":"2.0","id":"server-error","error":{"code":-32600,"message":"Bad Request: Missing session ID"}}"#,
        r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32000,"message":"Missing or unknown Mcp-Session-Id. Initialize first."}}"#,
        r#"{"error":{"code":-32000,"message":"Bad Request: A new session can only be created by an initialize request. Include a valid Mcp-Session-Id header for non-initialize requests, or enable stateless mode."},"id":"","jsonrpc":"2.0"}"#,
        r#"{"error":{"code":-32000,"message":"Bad Request: A new session can only be created by an initialize request."},"id":"","jsonrpc":"2.0"}"#,
        r#"{"code":-32601,"message":"Session ID required in mcp-session-id header"}"#,
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"Session ID required in mcp-session-id header"}}"#,
        r#"{"error":"Missing or unknown Mcp-Session-Id — call initialize first"}"#,
        "Bad Request: Session ID is required",
        "Bad Request: No valid session ID provided",
        "MISSING SESSION ID",
        "Missing MCP session ID",
        "Server has not been initialized yet",
        "Bad Request: session id must be provided",
        "Mcp-Session-Id header was not provided",
        "Unexpected message, expect initialize request",
    ] {
        assert_eq!(judge(400, body), Lost(Sign::IdRefused), "{body}");
        assert_eq!(judge_sessionless(400, body), Lost(Sign::IdRefused), "{body}");
    }
}

#[test]
fn a_400_for_an_unknown_session_is_lost_only_if_one_was_named() {
    for body in [
        "Invalid session ID",
        "Bad Request: Unknown Mcp-Session-Id header",
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"Session expired (server restarted). Please re-initialize the MCP connection."}}"#,
    ] {
        assert_eq!(judge(400, body), Lost(Sign::IdRefused), "{body}");
        assert_eq!(judge_sessionless(400, body), Alive, "{body}");
    }
}

#[test]
fn an_error_of_the_other_era_may_mean_that_the_server_was_replaced() {
    let body = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32022,"message":"Unsupported protocol version","data":{"message":"session not found"}}}"#;
    assert_eq!(judge(400, body), Suspected(Sign::EraChanged));
}

#[test]
fn what_misses_the_members_of_meta_is_a_server_of_the_other_era() {
    let body = r#"{"jsonrpc":"2.0","id":2,"error":{"code":-32602,"message":"Invalid params: request requires protocolVersion in request _meta"}}"#;
    assert_eq!(judge(400, body), Suspected(Sign::EraChanged));
    assert_eq!(judge(200, body), Alive, "a tool's own word");
}

#[test]
fn where_there_are_no_sessions_a_refusal_may_mean_that_the_server_was_replaced() {
    for status in [400, 404, 405, 406, 415, 422] {
        assert_eq!(modern_verdict(&answer(status, NOT_FOUND_TS)), Suspected(Sign::EraChanged), "{status}");
        let challenged = Answer { www_authenticate: true, ..answer(status, "") };
        assert_eq!(modern_verdict(&challenged), Alive, "{status}");
    }
    for status in [200, 401, 403, 429, 500, 503] {
        assert_eq!(modern_verdict(&answer(status, NOT_FOUND_TS)), Alive, "{status}");
    }
}

#[test]
fn other_400s_are_alive() {
    for body in [
        "",
        r#"{"jsonrpc":"2.0","error":{"code":-32000,"message":"Bad Request: Unsupported protocol version: 2030-01-01 (supported versions: 2025-11-25, 2025-06-18)"},"id":null}"#,
        r#"{"jsonrpc":"2.0","id":"server-error","error":{"code":-32602,"message":"Unsupported protocol version"}}"#,
        r#"{"jsonrpc":"2.0","id":"server-error","error":{"code":-32600,"message":"Bad Request: Unsupported protocol version: 1900-01-01"}}"#,
        r#"{"jsonrpc":"2.0","error":{"code":-32600,"message":"Invalid Request: Server already initialized"},"id":null}"#,
        r#"{"jsonrpc":"2.0","error":{"code":-32000,"message":"Bad Request: Mcp-Session-Id header must be a single value"},"id":null}"#,
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"Missing required argument: session_id"}}"#,
        "Bad Request: Unsupported MCP-Protocol-Version: 2030-01-01",
        "Invalid session token",
        "duplicate \"initialize\" received",
    ] {
        assert_eq!(judge(400, body), Alive, "{body}");
    }
}

#[test]
fn some_other_kind_of_session_is_only_suspected() {
    for body in ["Browser session not found", "Terminal session has been closed"] {
        assert_eq!(judge(404, body), Suspected(Sign::SessionNotFound), "{body}");
        assert_eq!(judge(400, body), Suspected(Sign::IdRefused), "{body}");
    }
}

#[test]
fn other_statuses_that_name_the_session_are_suspected() {
    let unavailable = r#"{"jsonrpc":"2.0","error":{"code":-32001,"message":"Service Unavailable: MCP session is unknown on this API instance. If you run multiple replicas, enable sticky sessions for POST /mcp."}}"#;
    let expired = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"Session expired (server restarted). Please re-initialize the MCP connection."}}"#;
    let unknown = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32004,"message":"Unknown session"}}"#;
    for (status, body, sign) in [
        (401, "Unauthorized: Session not found", Sign::Unauthorized),
        (409, expired, Sign::Conflict),
        (410, "Session terminated", Sign::Gone),
        (422, "Unexpected message, expect initialize request", Sign::InitializeExpected),
        (503, unavailable, Sign::Unavailable),
        (500, "session not found", Sign::OtherStatus),
        // rmcp, of a session that is just being closed: the message did not get there.
        (
            500,
            "Encounter an error when get session: Session error: Session service terminated",
            Sign::OtherStatus,
        ),
        (403, unknown, Sign::UnknownSessionCode),
        (200, unknown, Sign::UnknownSessionCode),
    ] {
        assert_eq!(judge(status, body), Suspected(sign), "{status} {body}");
    }
}

#[test]
fn other_statuses_that_do_not_are_alive() {
    for (status, body) in [
        (401, r#"{"error":"invalid_token"}"#),
        (403, "Forbidden"),
        (
            409,
            r#"{"jsonrpc":"2.0","error":{"code":-32000,"message":"Conflict: Only one SSE stream is allowed per session"},"id":null}"#,
        ),
        (429, "Too many requests: session not found"),
        (429, r#"{"error":"rate limited"}"#),
        (500, "Internal Server Error"),
        (500, "Encounter an error when load session, response session store load failed"),
        (503, "session store unavailable"),
        (503, "no healthy upstream"),
        (405, "Method not allowed: session not found"),
        (302, "session expired"),
    ] {
        assert_eq!(judge(status, body), Alive, "{status} {body}");
    }
}

#[test]
fn a_challenge_is_about_credentials_unless_the_session_itself_is_lost() {
    let challenged = |head| Answer { www_authenticate: true, ..answer(401, head) };
    assert_eq!(verdict(&challenged("")), Alive);
    assert_eq!(verdict(&challenged("Your session has expired, log in again")), Alive);
    assert_eq!(verdict(&challenged("Unauthorized: Session not found")), Suspected(Sign::Unauthorized));
}

#[test]
fn a_200_with_an_error_about_the_session_is_suspected() {
    assert_eq!(judge(200, HANDSHAKE_GO), Suspected(Sign::HandshakeInSuccess));
    assert_eq!(judge_sessionless(200, HANDSHAKE_GO), Suspected(Sign::HandshakeInSuccess));
    assert_eq!(judge(200, NOT_FOUND_TS), Suspected(Sign::ErrorInSuccess));
    assert_eq!(judge_sessionless(200, NOT_FOUND_TS), Alive);
    assert_eq!(judge(200, r#"{"error":"Session not found"}"#), Suspected(Sign::ErrorInSuccess));
    let sse = format!("event: message\r\ndata: {NOT_FOUND_TS}\r\n\r\n");
    assert_eq!(judge(200, &sse), Suspected(Sign::ErrorInSuccess));
}

#[test]
fn a_200_about_anything_else_is_alive() {
    for body in [
        "",
        "Session not found",
        r#"{"jsonrpc":"2.0","id":1,"result":{"isError":true,"content":[{"type":"text","text":"503: session not found"}]}}"#,
        r#"{"id":1,"error":null,"result":{"tools":[]},"jsonrpc":"2.0"}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"data":{"error":"session not found"}}}"#,
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32001,"message":"Request timed out"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"Unknown tool: get_session_not_found"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"File not found in session directory"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"Session s1: invalid argument"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"Session id accepted. Resource not found"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"There is no tool of that name in this session"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"Tool get_session_not_found failed"}}"#,
    ] {
        assert_eq!(judge(200, body), Alive, "{body}");
    }
}

#[test]
fn a_body_that_is_cut_off_is_judged_by_what_there_is() {
    let full = r#"{"id":1,"jsonrpc":"2.0","error":{"message":"Session not found","data":{"a":[1,{"b":"\"}"}]},"code":-32001}}"#;
    let named = full.find("found").unwrap() + 5;
    for end in 0..full.len() {
        let verdict = judge(404, &full[..end]);
        assert_ne!(verdict, Alive, "{}", &full[..end]);
        if end >= named {
            assert_eq!(verdict, Lost(Sign::SessionNotFound), "{}", &full[..end]);
        }
    }
}

#[test]
fn the_ping_decides() {
    let pong = r#"{"jsonrpc":"2.0","id":"p","result":{}}"#;
    let no_ping = r#"{"jsonrpc":"2.0","id":"p","error":{"code":-32601,"message":"Method not found"}}"#;
    for (status, head, expected) in [
        (200, pong.to_owned(), Some(true)),
        (200, format!("event: message\ndata: {pong}\n\n"), Some(true)),
        (200, no_ping.to_owned(), Some(true)),
        (200, NOT_FOUND_TS.to_owned(), Some(false)),
        (200, HANDSHAKE_GO.to_owned(), Some(false)),
        (200, String::new(), None),
        (404, String::new(), Some(false)),
        (404, NOT_FOUND_PYTHON.to_owned(), Some(false)),
        (404, no_ping.to_owned(), None),
        (400, "Bad Request".to_owned(), Some(false)),
        (401, "Unauthorized: Session not found".to_owned(), Some(false)),
        (401, String::new(), None),
        (403, "Forbidden".to_owned(), None),
        (500, "oops".to_owned(), None),
        (503, String::new(), None),
    ] {
        assert_eq!(ping_says_alive(status, head.as_bytes()), expected, "{status} {head}");
    }
}

#[test]
fn labels_are_distinct() {
    use std::collections::HashSet;
    let all = [
        Sign::SessionNotFound,
        Sign::BareError,
        Sign::UnexplainedNotFound,
        Sign::IdRefused,
        Sign::InitializeExpected,
        Sign::Unauthorized,
        Sign::Conflict,
        Sign::Gone,
        Sign::Unavailable,
        Sign::UnknownSessionCode,
        Sign::ErrorInSuccess,
        Sign::HandshakeInSuccess,
        Sign::OtherStatus,
    ];
    assert_eq!(all.iter().map(|sign| sign.as_str()).collect::<HashSet<_>>().len(), all.len());
}

proptest! {
    #[test]
    fn no_bytes_panic(status in any::<u16>(), head: Vec<u8>, www_authenticate: bool, session_sent: bool) {
        let _ = verdict(&Answer { status, content_type: None, www_authenticate, head: &head, session_sent });
        let _ = ping_says_alive(status, &head);
    }

    #[test]
    fn nothing_like_json_panics(status in 200u16..600, head in r#"[\[{]("error"|"result"|"message"|"code"|[:,{}\[\]"\\0-9u -]|session|not|found|null){0,60}"#) {
        let _ = verdict(&answer(status, &head));
        let _ = ping_says_alive(status, head.as_bytes());
    }

    #[test]
    fn a_result_is_never_examined(status in 200u16..600, text in "[ -~]{0,80}", before: bool) {
        let result = serde_json::json!({"content": [{"type": "text", "text": text}], "isError": true});
        let body = match before {
            true => format!(r#"{{"result":{result},"id":1,"jsonrpc":"2.0"}}"#),
            false => format!(r#"{{"jsonrpc":"2.0","id":1,"result":{result}}}"#),
        };
        prop_assert_eq!(judge(status, &body), Alive);
    }
}
