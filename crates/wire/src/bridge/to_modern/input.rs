//! `input_required`: what a server needs from the client before it goes on (2026-07-28, Multi Round-Trip Requests), as
//! the requests to the client that revisions with a handshake have for it.

use crate::capability::Capabilities;
use crate::envelope::{Envelope, Limits, Message, Outcome, each_member, member, string_value};
use crate::jsonrpc;
use crate::method;
use crate::splice::{set_member, splice};

/// What a round ended with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needed {
    /// What the client is to be asked.
    pub questions: Vec<Question>,
    /// Raw JSON of `requestState`.
    pub state: Option<Vec<u8>>,
}

/// One question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Raw JSON of the name that the server gave it.
    key: Vec<u8>,
    /// The method of the request.
    pub method: String,
    /// Raw JSON of its parameters.
    params: Option<Vec<u8>>,
}

impl Needed {
    /// Reads a result that says `input_required`. What is no request in it is left out: the server will ask again for
    /// what it really needs.
    #[must_use]
    pub fn read(result: &[u8]) -> Self {
        let raw = |name: &str| member(result, name).ok().flatten().map(|span| &result[span]);
        let state = raw("requestState").map(<[u8]>::to_vec);
        let mut questions = Vec::new();
        if let Some(requests) = raw("inputRequests").filter(|raw| raw.first() == Some(&b'{')) {
            let visited = each_member(requests, |member| {
                questions.extend(Question::read(&requests[member.key], &requests[member.value]));
            });
            if visited.is_err() {
                questions.clear();
            }
        }
        Needed { questions, state }
    }

    /// The methods of what it asks that a client which announced this cannot be asked; empty if it can be asked all.
    #[must_use]
    pub fn beyond(&self, client: Capabilities) -> String {
        let mut names: Vec<_> =
            self.questions.iter().filter(|question| !question.fits(client)).map(|it| &*it.method).collect();
        names.sort_unstable();
        names.dedup();
        names.join(", ")
    }
}

impl Question {
    fn read(key: &[u8], request: &[u8]) -> Option<Self> {
        let raw = |name: &str| member(request, name).ok().flatten().map(|span| &request[span]);
        let method = string_value(raw("method")?)?.into_owned();
        let params = raw("params").filter(|raw| raw.first() == Some(&b'{')).map(<[u8]>::to_vec);
        Some(Question { key: key.to_vec(), method, params })
    }

    /// Whether a client that announced this can be asked.
    fn fits(&self, client: Capabilities) -> bool {
        let params = self.params.as_deref().unwrap_or(b"{}");
        let find = |name: &str| member(params, name).ok().flatten();
        client.contains(match self.method.as_str() {
            method::ELICIT if find("mode").is_some_and(|mode| &params[mode] == br#""url""#) => {
                Capabilities::ELICITATION_URL
            }
            method::ELICIT => Capabilities::ELICITATION_FORM,
            method::SAMPLING if find("tools").is_some() => Capabilities::SAMPLING_TOOLS,
            method::SAMPLING => Capabilities::SAMPLING,
            method::ROOTS_LIST => Capabilities::ROOTS,
            _ => return false,
        })
    }

    /// As a request to the client. `id` is raw JSON, a string: it serves as the `elicitationId` too, which 2025-11-25
    /// demands beside a URL and 2026-07-28 does not have any more.
    #[must_use]
    pub fn request(&self, id: &str) -> Vec<u8> {
        let with_id = |params: &[u8]| {
            let whole = 0..params.len();
            if self.method != method::ELICIT || !matches!(member(params, "url"), Ok(Some(_))) {
                return params.to_vec();
            }
            match set_member(params, &whole, "elicitationId", id.as_bytes()) {
                Ok(edit) => splice(params, &mut [edit]),
                Err(_) => params.to_vec(),
            }
        };
        jsonrpc::request(id, &self.method, self.params.as_deref().map(with_id).as_deref())
    }
}

/// How a client answered a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Raw JSON of the result.
    Result(Vec<u8>),
    /// It would not; raw JSON of the error. The server has no word for that.
    Error(Vec<u8>),
}

impl Reply {
    /// Reads a response; with the raw JSON of the id of the question that it answers.
    #[must_use]
    pub fn read(body: &[u8]) -> Option<(String, Self)> {
        match Envelope::parse(body, &Limits::ANY_DEPTH).ok()?.message {
            Message::Response { id: Some(id), outcome: Outcome::Result(span) } => {
                Some((id.raw().to_owned(), Reply::Result(body[span].to_vec())))
            }
            Message::Response { id: Some(id), outcome: Outcome::Error(span) } => {
                Some((id.raw().to_owned(), Reply::Error(body[span].to_vec())))
            }
            _ => None,
        }
    }
}

/// `inputResponses`: each result (raw JSON) under the name that the server gave the question.
#[must_use]
pub fn responses(questions: &[Question], results: &[Vec<u8>]) -> Vec<u8> {
    let mut text = vec![b'{'];
    for (question, result) in questions.iter().zip(results) {
        if text.len() > 1 {
            text.push(b',');
        }
        text.extend_from_slice(&question.key);
        text.push(b':');
        text.extend_from_slice(result);
    }
    text.push(b'}');
    text
}

/// A client's error (raw JSON) as the answer to the call that it was asked for; `id` is that call's, raw JSON.
#[must_use]
pub fn declined(id: &str, error: &[u8]) -> Vec<u8> {
    let raw = |name: &str| member(error, name).ok().flatten().map(|span| &error[span]);
    let code = raw("code").and_then(|raw| std::str::from_utf8(raw).ok()?.parse().ok()).unwrap_or(-32603);
    let text = raw("message").and_then(string_value).unwrap_or_default();
    let text = format!("The client did not answer what the server asked for this call: {text}");
    jsonrpc::error(Some(id), code, &text, None)
}
