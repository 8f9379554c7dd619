//! Method names that a gateway must know, and which requests may be sent twice.

/// Opens a legacy session.
pub const INITIALIZE: &str = "initialize";
/// The client's word that a legacy session may begin.
pub const INITIALIZED: &str = "notifications/initialized";
/// Withdraws a request.
pub const CANCELLED: &str = "notifications/cancelled";
/// Progress of a request, by its progress token.
pub const PROGRESS: &str = "notifications/progress";
/// A log message of the server.
pub const LOG_MESSAGE: &str = "notifications/message";
/// The list of tools changed.
pub const TOOLS_CHANGED: &str = "notifications/tools/list_changed";
/// The list of resources changed.
pub const RESOURCES_CHANGED: &str = "notifications/resources/list_changed";
/// The list of prompts changed.
pub const PROMPTS_CHANGED: &str = "notifications/prompts/list_changed";
/// The client's list of roots changed.
pub const ROOTS_CHANGED: &str = "notifications/roots/list_changed";
/// A subscribed resource changed.
pub const RESOURCE_UPDATED: &str = "notifications/resources/updated";
/// What a `subscriptions/listen` stream carries, as its first message.
pub const SUBSCRIPTIONS_ACKNOWLEDGED: &str = "notifications/subscriptions/acknowledged";
/// The url of an elicitation was completed.
pub const ELICITATION_COMPLETE: &str = "notifications/elicitation/complete";
/// The state of a task.
pub const TASK_STATUS: &str = "notifications/tasks/status";
/// Is the other side there?
pub const PING: &str = "ping";
/// Lists tools.
pub const TOOLS_LIST: &str = "tools/list";
/// Calls a tool.
pub const TOOLS_CALL: &str = "tools/call";
/// Lists resources.
pub const RESOURCES_LIST: &str = "resources/list";
/// Lists resource templates.
pub const TEMPLATES_LIST: &str = "resources/templates/list";
/// Reads a resource.
pub const RESOURCES_READ: &str = "resources/read";
/// Subscribes to a resource (legacy).
pub const SUBSCRIBE: &str = "resources/subscribe";
/// Ends a subscription to a resource (legacy).
pub const UNSUBSCRIBE: &str = "resources/unsubscribe";
/// Lists prompts.
pub const PROMPTS_LIST: &str = "prompts/list";
/// Expands a prompt.
pub const PROMPTS_GET: &str = "prompts/get";
/// Completes an argument.
pub const COMPLETE: &str = "completion/complete";
/// Sets the session's log level (legacy).
pub const SET_LEVEL: &str = "logging/setLevel";
/// What a modern server is and speaks.
pub const DISCOVER: &str = "server/discover";
/// A modern client's stream of change notifications.
pub const LISTEN: &str = "subscriptions/listen";
/// The server asks for the client's roots.
pub const ROOTS_LIST: &str = "roots/list";
/// The server asks for a completion of the client's model.
pub const SAMPLING: &str = "sampling/createMessage";
/// The server asks the user.
pub const ELICIT: &str = "elicitation/create";
/// The state of a task.
pub const TASKS_GET: &str = "tasks/get";
/// The result of a task, once there is one.
pub const TASKS_RESULT: &str = "tasks/result";
/// Lists tasks.
pub const TASKS_LIST: &str = "tasks/list";
/// Cancels a task.
pub const TASKS_CANCEL: &str = "tasks/cancel";

/// Whether a request may be sent again although it may have been executed.
///
/// True for what only reads, and for what sets a state to a value that the request itself names. An
/// unknown method is never repeated.
#[must_use]
pub fn is_repeatable(method: &str) -> bool {
    match method {
        PING | DISCOVER | TOOLS_LIST | RESOURCES_LIST | TEMPLATES_LIST | RESOURCES_READ | PROMPTS_LIST
        | PROMPTS_GET | COMPLETE | ROOTS_LIST | TASKS_GET | TASKS_LIST | TASKS_RESULT => true,
        SET_LEVEL | SUBSCRIBE | UNSUBSCRIBE => true,
        // The effect could be repeated but the answer could not: a task that is already cancelled is refused
        // (-32602), so a repetition would report a success as a failure.
        TASKS_CANCEL => false,
        // A tool may do anything, and asking a user or a model twice is seen and paid for.
        TOOLS_CALL | SAMPLING | ELICIT => false,
        _ => false,
    }
}
