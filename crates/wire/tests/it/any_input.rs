//! What must hold for any input of the smaller parsers. Each function is a fuzz target of the same name, and is run
//! here on the corpus of that name.

use throughline_wire::bridge::to_modern::answer::{self, Asked, Said};
use throughline_wire::bridge::to_modern::hello::{self, Offers};
use throughline_wire::bridge::to_modern::listen::{self, Heard};
use throughline_wire::bridge::to_modern::mirror::Page;
use throughline_wire::bridge::to_modern::request::{self, Client, Round};
use throughline_wire::envelope::{Envelope, Limits, Message, member, path, string_value};
use throughline_wire::headers::{decode_value, encode_value};
use throughline_wire::keyring::KeyRing;
use throughline_wire::loss::{Answer, Verdict, ping_says_alive, verdict};
use throughline_wire::seal::Keys;
use throughline_wire::splice::{Edit, edit_members, remove_member, set_member, splice};
use throughline_wire::tag::Purpose;

/// Changing a message changes what was asked for, and nothing else.
pub(crate) fn message_edits(body: &[u8]) {
    let limits = Limits::default();
    let Ok(envelope) = Envelope::parse(body, &limits) else { return };
    let object = envelope.object.clone();
    if let Message::Request { id, .. } = &envelope.message {
        let changed = splice(body, &mut [Edit::replace(id.span(), b"\"ours\"")]);
        let back = Envelope::parse(&changed, &limits).expect("still a message");
        let Message::Request { id: ours, method, .. } = back.message else { unreachable!("still a request") };
        assert_eq!(ours.raw(), "\"ours\"");
        assert!(matches!(&envelope.message, Message::Request { method: before, .. } if *before == method));
        assert_eq!(splice(&changed, &mut [Edit::replace(ours.span(), id.raw().as_bytes())]), body);
    }
    if let Ok(edit) = set_member(body, &object, "x-ours", b"{\"a\":[1]}") {
        let changed = splice(body, &mut [edit]);
        let whole = Envelope::parse(&changed, &limits).expect("still a message").object;
        let found = member(&changed[whole], "x-ours").expect("read before").expect("it was set");
        assert_eq!(found.len(), "{\"a\":[1]}".len());
    }
    if let Ok(Some(edit)) = remove_member(body, &object, "params") {
        let changed = splice(body, &mut [edit]);
        let whole = Envelope::parse(&changed, &limits).expect("still a message").object;
        assert_eq!(member(&changed[whole], "params"), Ok(None));
    }
    if let Ok(mut edits) =
        edit_members(body, &object, &[("id", Some(b"7")), ("params", None), ("y", Some(b"[]"))])
    {
        Envelope::parse(&splice(body, &mut edits), &limits).expect("still a message");
    }
    for names in [&["params"][..], &["params", "_meta"], &["params", "_meta", "progressToken"]] {
        if let Ok(Some(span)) = path(body, names) {
            let _ = string_value(&body[span]);
        }
    }
}

/// What is decoded encodes to something that decodes to it; any text survives both.
pub(crate) fn header_value(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(value) = decode_value(text) {
        assert_eq!(decode_value(&encode_value(&value)).expect("our own"), value);
    }
    let encoded = encode_value(text);
    assert!(encoded.bytes().all(|byte| (0x20..=0x7e).contains(&byte)), "{encoded:?}");
    assert_eq!(decode_value(&encoded).expect("our own"), text);
}

/// The first two bytes are status and circumstances, the rest is the beginning of the answer.
pub(crate) fn loss_verdict(data: &[u8]) {
    let [status, how, head @ ..] = data else { return };
    let status = [200, 202, 400, 401, 403, 404, 405, 409, 410, 422, 500, 502, 503][usize::from(*status) % 13];
    let content_type =
        ["application/json", "text/event-stream", "text/plain", "text/html"].get(usize::from(how & 7));
    let answer = Answer {
        status,
        content_type: content_type.copied(),
        www_authenticate: how & 8 != 0,
        head,
        session_sent: how & 16 != 0,
    };
    let judged = verdict(&answer);
    // Only two statuses say without a doubt that a session is lost.
    assert!(!matches!(judged, Verdict::Lost(_)) || matches!(status, 400 | 404), "{answer:?}");
    assert!(status != 405 || judged == Verdict::Alive, "{answer:?}");
    let _ = ping_says_alive(status, head);
}

/// Whatever a client or a server says, what the bridge to a modern server makes of it is a message.
pub(crate) fn to_modern(data: &[u8]) {
    let limits = Limits::ANY_DEPTH;
    let is_message = |data: &[u8]| drop(Envelope::parse(data, &limits).expect("a message"));
    for method in ["resources/read", "tools/list"] {
        match answer::read(data, Asked { method, id: "7" }) {
            Said::Response(response) => is_message(&response),
            Said::Needs(needed) => needed.questions.iter().for_each(|it| is_message(&it.request("\"q\""))),
            _ => {}
        }
    }
    match listen::read(data) {
        Heard::Pass(message) | Heard::ToolsChanged(message) => is_message(&message),
        _ => {}
    }
    let _ = (Page::read(data), Offers::of(data));
    let _ = hello::capabilities(data);
    let Ok(Envelope { object, message: Message::Request { id, params, .. }, .. }) =
        Envelope::parse(data, &limits)
    else {
        return;
    };
    let client = Client { info: b"{}", capabilities: b"{}", log_level: None };
    let asked = request::request(data, &object, (&id, "7"), params.as_ref(), &client, &Round::default());
    if let Ok(asked) = asked {
        let whole = Envelope::parse(&asked, &limits).expect("a message").object;
        let named = path(&asked[whole], &["params", "_meta", "io.modelcontextprotocol/protocolVersion"]);
        assert!(matches!(named, Ok(Some(_))), "{}", String::from_utf8_lossy(&asked));
    }
}

/// Nobody can make up an id, a tag or a secret.
pub(crate) fn session_id(data: &[u8]) {
    let keys = Keys::derive(&KeyRing::generate([7; 32]), 0);
    if let Ok(text) = std::str::from_utf8(data) {
        assert!(keys.open_session(text).is_err());
        for purpose in [Purpose::Request, Purpose::Progress, Purpose::Event] {
            assert_eq!(keys.untag(purpose, &[1; 16], text), None);
        }
    }
    assert_eq!(keys.open_secret(b"context", data), None);
}

/// A ring that is read is written so that it reads the same.
pub(crate) fn key_ring(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(ring) = KeyRing::parse(text) else { return };
    let again = KeyRing::parse(&ring.to_text()).expect("our own");
    assert_eq!((again.to_text(), again.ids(0)), (ring.to_text(), ring.ids(0)));
    let _ = Keys::derive(&ring, 0);
}
