//! A server whose tools ask before they answer.

use std::sync::{Arc, Condvar, Mutex};

use serde_json::Value;

use crate::harness::{Answer, PATIENCE, Upstream, refused};

/// What its clients have answered: raw responses by id.
#[derive(Default)]
pub(super) struct Asker {
    answers: Mutex<Vec<Value>>,
    changed: Condvar,
}

impl Asker {
    /// Lets an upstream ask. The tool's name says what: rounds, separated by `.`, of questions, separated by `+`. The
    /// result's text is what was answered, in the order of the questions. A question is `METHOD` (`form`, `sampling`,
    /// `roots`, `ping`) and `=KEY`, where it names one. A tool `aside...` asks on the session's stream instead;
    /// `hold` asks nothing, and ends when anything has been answered.
    pub(super) fn at(upstream: &Upstream) -> Arc<Self> {
        let asker = Arc::new(Asker::default());
        let asking = Arc::clone(&asker);
        let server = Arc::clone(upstream.server());
        upstream.script(move |request, _| {
            if request.rpc() == "response" {
                asking.answers.lock().unwrap().push(request.json());
                asking.changed.notify_all();
                return Some(refused(202, "text/plain", ""));
            }
            let (tool, id) = (request.tool(), request.id());
            let server = Arc::clone(&server);
            let session = request.session().unwrap_or_default().to_owned();
            let asker = Arc::clone(&asking);
            if tool == "hold" {
                return Some(Answer::Stream(Box::new(move |events| {
                    asker.wait();
                    events.message(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[]}}}}"#));
                })));
            }
            (tool.starts_with("ask.") || tool.starts_with("aside.")).then(|| {
                Answer::Stream(Box::new(move |events| {
                    let mut said = Vec::new();
                    let mut number = 0;
                    for round in tool.split('.').skip(1) {
                        let ids: Vec<_> = round.split('+').map(|question| {
                            number += 1;
                            // Unique here, so that two calls can be told apart.
                            let own = format!("{id}-{number}").replace('"', "");
                            match tool.starts_with("aside.") {
                                    true => server.push(&session, &format!("data: {}\n\n", ask(&own, question))),
                                    false => drop(events.message(&ask(&own, question))),
                                }
                            own
                        }).collect();
                        for id in ids {
                            let Some(answer) = asker.answer(&id) else { return };
                            said.push(answer["result"].to_string());
                        }
                    }
                    let text = Value::from(said.join(";"));
                    events.message(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[{{"type":"text","text":{text}}}]}}}}"#));
                }))
            })
        });
        asker
    }

    pub(super) fn answer(&self, id: &str) -> Option<Value> {
        let found = |answers: &Vec<Value>| answers.iter().find(|answer| answer["id"] == id).cloned();
        let answers = self.answers.lock().unwrap();
        let (answers, _) =
            self.changed.wait_timeout_while(answers, PATIENCE, |all| found(all).is_none()).unwrap();
        found(&answers)
    }

    /// Waits until anything has been answered.
    fn wait(&self) {
        let answers = self.answers.lock().unwrap();
        drop(self.changed.wait_timeout_while(answers, PATIENCE, |answers| answers.is_empty()));
    }

    /// All that has been answered.
    pub(super) fn answers(&self) -> Vec<Value> {
        self.answers.lock().unwrap().clone()
    }
}

fn ask(id: &str, question: &str) -> String {
    let (kind, key) = question.split_once('=').unwrap_or((question, ""));
    let meta = if key.is_empty() { String::new() } else { format!(r#""_meta":{{"x/inputKey":"{key}"}},"#) };
    let long = format!(r#""messages":[],"systemPrompt":"{}""#, "x".repeat(100_000));
    let (method, params) = match kind {
        "form" => {
            ("elicitation/create", r#""message":"?","requestedSchema":{"type":"object","properties":{}}"#)
        }
        "url" => (
            "elicitation/create",
            r#""mode":"url","elicitationId":"1","url":"https://a.example/","message":"?""#,
        ),
        "sampling" => ("sampling/createMessage", r#""messages":[],"maxTokens":1"#),
        "long" => ("sampling/createMessage", long.as_str()),
        "roots" => ("roots/list", r#""x":1"#),
        other => (other, r#""x":1"#),
    };
    format!(r#"{{"jsonrpc":"2.0","id":"{id}","method":"{method}","params":{{{meta}{params}}}}}"#)
}
