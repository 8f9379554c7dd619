//! A legacy server's questions as the input that a modern result requires (2026-07-28, Multi Round-Trip Requests).

use serde_json::{Map, Value, json};

use super::answer::URL_ELICITATION_REQUIRED;
use crate::bridge::meta;
use crate::envelope::{Span, each_member, member, string_value};
use crate::jsonrpc::{self, quoted};
use crate::method;
use crate::splice::{edit_members, splice};

/// Longest key that is taken from a server, in bytes.
const MAX_KEY: usize = 128;

/// Questions that a client is asked at a time; the next ones follow when these are answered.
pub const MAX_QUESTIONS: usize = 16;

/// Something that has to be had from the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Names it toward the client.
    pub key: String,
    /// What its answer is to be sent under, raw JSON: the id of the server's request.
    pub id: String,
    /// Its method.
    pub method: String,
    /// Raw JSON of its parameters, as the modern era has them.
    pub params: Option<Vec<u8>>,
}

impl Question {
    /// A server's request: `data` is the message, `own` the raw JSON of its id as the server wrote it, and `id` that of
    /// the one to answer it by. None for what the modern era has no such thing for.
    pub fn read(data: &[u8], own: &[u8], id: String, method: &str, params: Option<&Span>) -> Option<Self> {
        if !matches!(method, method::ELICIT | method::SAMPLING | method::ROOTS_LIST) {
            return None;
        }
        let params = params.map(|span| &data[span.clone()]).filter(|params| params.first() == Some(&b'{'));
        let key = params.and_then(named_key).or_else(|| {
            let text = string_value(own)?;
            (!text.is_empty() && text.len() <= MAX_KEY).then(|| text.into_owned())
        });
        let key = key.unwrap_or_else(|| format!("{method}-{}", String::from_utf8_lossy(own)));
        Some(Question { key, id, method: method.to_owned(), params: params.and_then(modern_params) })
    }

    /// The questions of an error that says which URLs have to be visited first (2025-11-25, Elicitation, "URL Elicitation
    /// Required Error"); they have no id to answer by. None for another error, or one without any.
    pub fn of_error(error: &[u8]) -> Option<Vec<Self>> {
        let error: Value = serde_json::from_slice(error).ok()?;
        if error["code"] != URL_ELICITATION_REQUIRED {
            return None;
        }
        let wanted = error.pointer("/data/elicitations")?.as_array()?;
        let mut questions: Vec<Question> = Vec::new();
        for (at, wanted) in wanted.iter().take(MAX_QUESTIONS).enumerate() {
            let params = json!({ "mode": "url", "url": wanted["url"], "message": wanted["message"] });
            let id = wanted["elicitationId"].as_str().filter(|id| !id.is_empty() && id.len() <= MAX_KEY);
            let key = id.map_or_else(|| format!("{}-{at}", method::ELICIT), str::to_owned);
            questions.push(Question {
                key: unique(&key, |key| questions.iter().any(|taken| taken.key == key)),
                id: String::new(),
                method: method::ELICIT.to_owned(),
                params: Some(params.to_string().into_bytes()),
            });
        }
        (!questions.is_empty()).then_some(questions)
    }

    /// What the client must have declared to be asked this, in the form of `ClientCapabilities`; None where it has.
    pub fn lacks(&self, declared: Option<&[u8]>) -> Option<Value> {
        let declared: Value = declared.and_then(|raw| serde_json::from_slice(raw).ok()).unwrap_or_default();
        let params: Value =
            self.params.as_ref().and_then(|raw| serde_json::from_slice(raw).ok()).unwrap_or_default();
        let elicitation = &declared["elicitation"];
        let (has, wanted) = match self.method.as_str() {
            method::ELICIT if params["mode"] == "url" => {
                (elicitation["url"].is_object(), json!({ "elicitation": { "url": {} } }))
            }
            // A bare `elicitation` means forms.
            method::ELICIT => {
                let forms = elicitation
                    .as_object()
                    .is_some_and(|modes| modes.contains_key("form") || !modes.contains_key("url"));
                (forms, json!({ "elicitation": {} }))
            }
            method::SAMPLING if params.get("tools").is_some() || params.get("toolChoice").is_some() => {
                (declared["sampling"]["tools"].is_object(), json!({ "sampling": { "tools": {} } }))
            }
            method::SAMPLING => (declared["sampling"].is_object(), json!({ "sampling": {} })),
            _ => (declared["roots"].is_object(), json!({ "roots": {} })),
        };
        (!has).then_some(wanted)
    }

    /// Whether a client's answer has the form of one to this question.
    pub fn fits(&self, answer: &[u8]) -> bool {
        let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
        match self.method.as_str() {
            method::ELICIT => {
                let content = answer.get("content").is_none_or(Value::is_object);
                content && matches!(answer["action"].as_str(), Some("accept" | "decline" | "cancel"))
            }
            method::SAMPLING => {
                answer["role"].is_string() && (answer["content"].is_object() || answer["content"].is_array())
            }
            _ => answer["roots"].is_array(),
        }
    }
}

/// The key that a server names in `params._meta`: the text of a member whose name, behind its prefix, ends in `key`.
fn named_key(params: &[u8]) -> Option<String> {
    let meta = &params[member(params, "_meta").ok()??];
    let mut key = None;
    if meta.first() == Some(&b'{') {
        each_member(meta, |member| {
            let name = member.name(meta).unwrap_or_default().to_ascii_lowercase();
            let value = string_value(&meta[member.value.clone()]);
            if name.ends_with(b"key") {
                key = key.take().or(value.map(|value| value.into_owned()));
            }
        })
        .ok()?;
    }
    key.filter(|key: &String| !key.is_empty() && key.len() <= MAX_KEY)
}

/// Without what only the legacy era has in them.
fn modern_params(params: &[u8]) -> Option<Vec<u8>> {
    let changes = [("_meta", None), ("elicitationId", None), ("task", None)];
    let mut edits = edit_members(params, &(0..params.len()), &changes).ok()?;
    Some(splice(params, &mut edits))
}

/// The response that asks the client for these, with the state to be given back. `id`, and `server_info`, are raw JSON.
pub fn input_required(id: &str, questions: &[Question], state: &str, server_info: Option<&[u8]>) -> Vec<u8> {
    let mut result = br#"{"resultType":"input_required","inputRequests":{"#.to_vec();
    for (at, question) in questions.iter().enumerate() {
        if at > 0 {
            result.push(b',');
        }
        let head = format!(r#"{}:{{"method":{}"#, quoted(&question.key), quoted(&question.method));
        result.extend_from_slice(head.as_bytes());
        if let Some(params) = &question.params {
            result.extend_from_slice(br#","params":"#);
            result.extend_from_slice(params);
        }
        result.push(b'}');
    }
    result.extend_from_slice(format!(r#"}},"requestState":{}"#, quoted(state)).as_bytes());
    if let Some(info) = server_info {
        result.extend_from_slice(format!(r#","_meta":{{"{}":"#, meta::SERVER_INFO).as_bytes());
        result.extend_from_slice(info);
        result.push(b'}');
    }
    result.push(b'}');
    jsonrpc::result(id, &result)
}

/// A key that is not taken: this one, or this with a number.
pub fn unique(key: &str, taken: impl Fn(&str) -> bool) -> String {
    let mut unique = key.to_owned();
    let mut count = 1;
    while taken(&unique) {
        count += 1;
        unique = format!("{key}-{count}");
    }
    unique
}

/// Capabilities that several questions lack, as one object.
pub fn together(lacking: impl IntoIterator<Item = Value>) -> Value {
    let mut all = Map::new();
    for one in lacking {
        let Value::Object(one) = one else { continue };
        for (name, value) in one {
            match (all.get_mut(&name), value) {
                (Some(Value::Object(there)), Value::Object(more)) => there.extend(more),
                (_, value) => {
                    all.insert(name, value);
                }
            }
        }
    }
    Value::Object(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::{Envelope, Limits, Message};

    fn read(data: &str) -> Option<Question> {
        match Envelope::parse(data.as_bytes(), &Limits::default()).unwrap().message {
            Message::Request { id, method, params } => Question::read(
                data.as_bytes(),
                id.raw().as_bytes(),
                "\"t\"".to_owned(),
                &method,
                params.as_ref(),
            ),
            other => panic!("{other:?}"),
        }
    }

    fn ask(id: &str, method: &str, params: &str) -> Question {
        read(&format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#)).unwrap()
    }

    #[test]
    fn a_key_is_the_servers_word_else_its_id_else_made_of_both() {
        let named = r#"{"_meta":{"progressToken":1,"x/inputKey":"user_name"},"message":"?"}"#;
        assert_eq!(ask("0", "elicitation/create", named).key, "user_name");
        assert_eq!(ask(r#""q1""#, "elicitation/create", "{}").key, "q1");
        assert_eq!(ask("0", "roots/list", r#"{"_meta":{"key":""}}"#).key, "roots/list-0");
        assert_eq!(read(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#), None);
        assert_eq!(unique("a", |_| false), "a");
        assert_eq!(unique("a", |key| ["a", "a-2"].contains(&key)), "a-3");
    }

    #[test]
    fn a_question_says_what_it_needs() {
        let lacks = |question: &Question, declared: &str| question.lacks(Some(declared.as_bytes()));
        let form = ask("0", "elicitation/create", "{}");
        assert_eq!(lacks(&form, "{}"), Some(json!({"elicitation":{}})));
        assert_eq!(lacks(&form, r#"{"elicitation":{}}"#), None);
        assert_eq!(lacks(&form, r#"{"elicitation":{"url":{}}}"#), Some(json!({"elicitation":{}})));
        let url = ask("0", "elicitation/create", r#"{"mode":"url","elicitationId":"1"}"#);
        assert_eq!(url.params.as_deref(), Some(&br#"{"mode":"url"}"#[..]));
        assert_eq!(lacks(&url, r#"{"elicitation":{}}"#), Some(json!({"elicitation":{"url":{}}})));
        let tools = ask("0", "sampling/createMessage", r#"{"tools":[]}"#);
        assert_eq!(lacks(&tools, r#"{"sampling":{}}"#), Some(json!({"sampling":{"tools":{}}})));
        let roots = ask("0", "roots/list", "{}");
        assert_eq!(roots.lacks(None), Some(json!({"roots":{}})));
        let both =
            together([url.lacks(None).unwrap(), form.lacks(None).unwrap(), roots.lacks(None).unwrap()]);
        assert_eq!(both, json!({"elicitation":{"url":{}},"roots":{}}));
    }

    #[test]
    fn an_answer_has_the_form_of_its_question() {
        let form = ask("0", "elicitation/create", "{}");
        assert!(form.fits(br#"{"action":"accept","content":{}}"#) && form.fits(br#"{"action":"cancel"}"#));
        assert!(!form.fits(b"{}") && !form.fits(br#"{"action":"accept","content":1}"#));
        let sampling = ask("0", "sampling/createMessage", "{}");
        assert!(sampling.fits(br#"{"role":"assistant","content":{"type":"text","text":"x"},"model":"m"}"#));
        assert!(!sampling.fits(br#"{"action":"accept"}"#));
        assert!(ask("0", "roots/list", "{}").fits(br#"{"roots":[]}"#));
    }

    #[test]
    fn the_client_is_asked_for_all_at_once() {
        let questions = [
            ask(r#""a\"b""#, "elicitation/create", r#"{"message":"?", "_meta":{"progressToken":2}}"#),
            read(r#"{"jsonrpc":"2.0","id":"r","method":"roots/list"}"#).unwrap(),
        ];
        let said = input_required("7", &questions, "state", Some(b"{}"));
        assert_eq!(
            String::from_utf8(said).unwrap(),
            r#"{"jsonrpc":"2.0","id":7,"result":{"resultType":"input_required","inputRequests":{"a\"b":{"method":"elicitation/create","params":{"message":"?"}},"r":{"method":"roots/list"}},"requestState":"state","_meta":{"io.modelcontextprotocol/serverInfo":{}}}}"#
        );
    }

    #[test]
    fn urls_to_visit_first_become_questions() {
        let error = br#"{"code":-32042,"message":"m","data":{"elicitations":[{"mode":"url","elicitationId":"e1","url":"https://a.example/","message":"Log in"}]}}"#;
        let [question] = Question::of_error(error).unwrap().try_into().unwrap();
        assert_eq!((question.key.as_str(), question.id.as_str()), ("e1", ""));
        let params: Value = serde_json::from_slice(&question.params.unwrap()).unwrap();
        assert_eq!(params, json!({"mode":"url","url":"https://a.example/","message":"Log in"}));
        assert_eq!(Question::of_error(br#"{"code":-32042,"message":"m"}"#), None);
        let many = vec![json!({ "elicitationId": "e", "url": "https://a.example/" }); 100];
        let error = json!({ "code": -32042, "data": { "elicitations": many } }).to_string();
        let questions = Question::of_error(error.as_bytes()).unwrap();
        let keys: std::collections::BTreeSet<_> = questions.iter().map(|question| &question.key).collect();
        assert_eq!((questions.len(), keys.len()), (MAX_QUESTIONS, MAX_QUESTIONS), "each can be answered");
        assert_eq!(Question::of_error(br#"{"code":-32041,"data":{"elicitations":[{}]}}"#), None);
    }
}
