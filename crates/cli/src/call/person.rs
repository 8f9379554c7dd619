//! Whoever sits at the terminal: what servers ask and report goes to them, and their answers back.

// Logging is deprecated in 2026-07-28; servers for the eras before it log.
#![expect(deprecated)]

use std::io::{self, BufRead, IsTerminal, Write};
use std::sync::Arc;

use rmcp::model::{
    ClientCapabilities, ClientConfig, ElicitRequestParams, ElicitResult, ElicitationAction,
    ElicitationCapability, ErrorData, FormElicitationCapability, Implementation,
    LoggingMessageNotificationParam, ProgressNotificationParam, UrlElicitationCapability,
};
use rmcp::service::{NotificationContext, RequestContext};
use rmcp::{ClientHandler, RoleClient};
use serde_json::{Map, Value};
use tokio::sync::{Mutex, oneshot};

use super::form::{Field, fields};
use crate::text;

/// The client's side of the conversation.
#[derive(Clone)]
pub(crate) struct Person {
    /// Whether there is somebody to ask.
    is_there: bool,
    /// One question at a time.
    turn: Arc<Mutex<()>>,
}

/// What somebody decided.
enum Decision {
    Accept(Value),
    Decline,
    Cancel,
}

impl Person {
    /// Whoever is at the terminal, if questions reach it and answers come from it.
    pub(crate) fn at_terminal() -> Self {
        Person { is_there: io::stdin().is_terminal() && io::stderr().is_terminal(), turn: Arc::default() }
    }
}

impl ClientHandler for Person {
    async fn create_elicitation(
        &self,
        request: ElicitRequestParams,
        _: RequestContext<RoleClient>,
    ) -> Result<ElicitResult, ErrorData> {
        let _turn = self.turn.lock().await;
        if !self.is_there {
            say("the server asks something and nobody is at a terminal to answer: declined");
            return Ok(ElicitResult::new(ElicitationAction::Decline));
        }
        let (send, answer) = oneshot::channel();
        // A thread that is left behind, not one that the runtime would wait for: nothing wakes it but a line.
        std::thread::spawn(move || send.send(decide(&request, &mut io::stdin().lock())));
        let decision = answer.await.map_err(|_| ErrorData::internal_error("nobody answered", None))?;
        Ok(match decision {
            Ok(Decision::Accept(content)) => {
                let accepted = ElicitResult::new(ElicitationAction::Accept);
                if content.is_null() { accepted } else { accepted.with_content(content) }
            }
            Ok(Decision::Decline) => ElicitResult::new(ElicitationAction::Decline),
            Ok(Decision::Cancel) | Err(_) => ElicitResult::new(ElicitationAction::Cancel),
        })
    }

    async fn on_progress(&self, progress: ProgressNotificationParam, _: NotificationContext<RoleClient>) {
        let of = progress.total.map(|total| format!(" of {total}")).unwrap_or_default();
        let message = progress.message.map(|message| format!(": {message}")).unwrap_or_default();
        say(&format!("progress {}{of}{message}", progress.progress));
    }

    async fn on_logging_message(
        &self,
        message: LoggingMessageNotificationParam,
        _: NotificationContext<RoleClient>,
    ) {
        let level = serde_json::to_value(message.level).unwrap_or_default();
        let data = message.data.as_str().map_or_else(|| message.data.to_string(), str::to_owned);
        say(&format!("{}: {data}", level.as_str().unwrap_or("log")));
    }

    fn get_info(&self) -> ClientConfig {
        let mut capabilities = ClientCapabilities::default();
        capabilities.elicitation = Some(
            ElicitationCapability::default()
                .with_form(FormElicitationCapability::default())
                .with_url(UrlElicitationCapability::default()),
        );
        let implementation = Implementation::new("throughline-call", env!("CARGO_PKG_VERSION"));
        ClientConfig::new(capabilities, implementation)
            .with_protocol_version(rmcp::model::ProtocolVersion::LATEST_WITH_INITIALIZE)
    }
}

/// Tells the user something that is no result.
pub(crate) fn say(text: &str) {
    eprintln!("{}", text::printable(text));
}

/// Shows the question and reads the answer. The end of the input (Ctrl-D) cancels.
fn decide(request: &ElicitRequestParams, input: &mut impl BufRead) -> io::Result<Decision> {
    match request {
        ElicitRequestParams::FormElicitationParams { message, requested_schema, .. } => {
            say(&format!("\nThe server asks: {message}"));
            let schema = serde_json::to_value(requested_schema).unwrap_or_default();
            let mut content = Map::new();
            for field in fields(&schema) {
                match answer(&field, input)? {
                    Some(Some(value)) => _ = content.insert(field.name, value),
                    Some(None) => {}
                    None => return Ok(Decision::Cancel),
                }
            }
            confirm("Send this?", Value::Object(content), input)
        }
        ElicitRequestParams::UrlElicitationParams { message, url, .. } => {
            say(&format!(
                "\nThe server asks: {message}\nIt wants you to open this address, if you trust it:"
            ));
            say(&format!("  {url}"));
            confirm("Have you opened it, and may the call go on?", Value::Null, input)
        }
        _ => {
            say("the server asks in a way that this client does not know: declined");
            Ok(Decision::Decline)
        }
    }
}

/// Asks for a field until the answer fits: `Some(None)` when it is left out, `None` at the end of the input.
fn answer(field: &Field, input: &mut impl BufRead) -> io::Result<Option<Option<Value>>> {
    say(&field.question());
    loop {
        let Some(line) = prompt(&format!("{}: ", field.name), input)? else { return Ok(None) };
        match field.read(&line) {
            Ok(value) => return Ok(Some(value)),
            Err(why) => say(&format!("    {why}")),
        }
    }
}

fn confirm(question: &str, content: Value, input: &mut impl BufRead) -> io::Result<Decision> {
    loop {
        let Some(line) = prompt(&format!("{question} [Y]es, [n]o, [c]ancel the call: "), input)? else {
            return Ok(Decision::Cancel);
        };
        match line.to_ascii_lowercase().as_str() {
            "" | "y" | "yes" => return Ok(Decision::Accept(content)),
            "n" | "no" => return Ok(Decision::Decline),
            "c" | "cancel" => return Ok(Decision::Cancel),
            _ => {}
        }
    }
}

fn prompt(prompt: &str, input: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut screen = io::stderr().lock();
    write!(screen, "  {}", text::printable(prompt))?;
    screen.flush()?;
    let mut line = String::new();
    let read = input.read_line(&mut line)?;
    Ok((read > 0).then(|| line.trim().to_owned()))
}
