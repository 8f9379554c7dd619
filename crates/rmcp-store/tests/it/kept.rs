//! What is kept of a session, for whom, and until it is deleted.

use std::sync::atomic::Ordering;

use rmcp::transport::streamable_http_server::session::{SessionState, SessionStore};
use serde_json::{Value, json};
use throughline_rmcp::{NotKept, Options, Sessions, Store};

use crate::replica::Replica;
use crate::{Backend, Time};

/// Everything that rmcp's model has a place for.
fn rich() -> Value {
    json!({
        "_meta": {"example.org/n": 1.5, "progressToken": "t", "deep": [null, {"x": -1}]},
        "protocolVersion": "2025-06-18",
        "capabilities": {
            "experimental": {"a": {"b": [1, 2]}},
            "extensions": {"io.modelcontextprotocol/ui": {"mimeTypes": ["text/html"]}},
            "roots": {"listChanged": true},
            "sampling": {"tools": {}, "context": {}},
            "elicitation": {"form": {"schemaValidation": true}, "url": {}},
        },
        "clientInfo": {
            "name": "näme \"with\" \\ quotes",
            "title": "T",
            "version": "0.0.0-rc.1+b",
            "description": "D",
            "icons": [{"src": "https://example.org/i.png", "mimeType": "image/png", "sizes": ["48x48"]}],
            "websiteUrl": "https://example.org",
        },
    })
}

#[tokio::test]
async fn a_session_goes_on_in_another_process() {
    for backend in Backend::all().await {
        let one = Replica::new(&Sessions::new(backend.store.clone()));
        let session = one.initialize_with(rich()).await;
        let known = one.call(&session).await.client();
        let mut sent = rich();
        // The front page says so: rmcp takes it for the request's, not the session's.
        sent.as_object_mut().unwrap().remove("_meta");
        assert_eq!(known, sent, "{}", backend.name());

        let other = Replica::new(&Sessions::new(backend.store.clone()));
        assert_eq!(other.call(&session).await.client(), known, "{}", backend.name());
        assert_eq!(other.call(&session).await.client(), known, "{}", backend.name());
        assert_eq!((other.seen.initializes.load(Ordering::SeqCst), other.seen.restores()), (0, 1));
        assert_eq!(one.call(&session).await.client(), known, "{}", backend.name());
        assert_eq!(other.status("9d2f8a4e-0000-4000-8000-000000000000").await, 404, "{}", backend.name());
    }
}

#[tokio::test]
async fn a_session_goes_on_behind_a_closed_and_opened_file() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("embedded:{}", dir.path().display());
    let sessions = Sessions::open(&url).await.unwrap();
    let session = Replica::new(&sessions).initialize().await;
    let in_use = Sessions::open(&url).await.unwrap_err().to_string();
    assert!(in_use.contains("is in use by another process"), "{in_use}");
    sessions.close().await.unwrap();

    let reopened = Sessions::open(&url).await.unwrap();
    assert_eq!(Replica::new(&reopened).status(&session).await, 200);
}

#[tokio::test]
async fn a_url_that_is_none_is_refused_without_being_repeated() {
    for url in ["", "memory", "embedded:", "postgres://user:hunter2@host/db", "redis://:hunter2@host:x"] {
        let error = Sessions::open(url).await.unwrap_err().to_string();
        assert!(error.contains("session store") && !error.contains("hunter2"), "{error}");
    }
}

#[tokio::test]
async fn a_deleted_session_is_gone_everywhere() {
    for backend in Backend::all().await {
        let time = Time::new();
        let replica = || Replica::new(&Sessions::with_options(backend.store.clone(), time.options()));
        let (one, serving, third) = (replica(), replica(), replica());
        let session = one.initialize().await;
        assert_eq!(serving.status(&session).await, 200);
        one.delete(&session).await;
        assert_eq!(one.status(&session).await, 404, "{}", backend.name());
        assert_eq!(third.status(&session).await, 404, "{}", backend.name());
        // Where rmcp has it in memory it is noticed within a minute.
        time.pass(1);
        assert_eq!(serving.status(&session).await, 404, "{}", backend.name());
    }
}

#[tokio::test]
async fn deleting_what_never_was_leaves_nothing() {
    let backend = Backend::memory();
    let replica = Replica::new(&Sessions::new(backend.store.clone()));
    replica.delete("made-up").await;
    assert_eq!(records(&backend.store).await, Vec::<String>::new());
}

#[tokio::test]
async fn servers_share_a_store_without_sharing_sessions() {
    let backend = Backend::memory();
    let server = |name: &str| {
        let options = Options::default().with_server(name);
        Replica::new(&Sessions::with_options(backend.store.clone(), options))
    };
    let session = server("a").initialize().await;
    assert_eq!(server("b").status(&session).await, 404);
    assert_eq!(server("a").status(&session).await, 200);
}

#[tokio::test]
async fn no_session_id_is_written_down() {
    let backend = Backend::embedded().await;
    let sessions = Sessions::new(backend.store.clone());
    let session = Replica::new(&sessions).initialize().await;
    let records = records(&backend.store).await;
    assert!(records.len() == 1 && records[0].contains("tests"), "{records:?}");
    assert!(!records[0].contains(&session), "{records:?}");
    sessions.close().await.unwrap();

    let files: Vec<_> = std::fs::read_dir(backend.dir.as_ref().unwrap().path()).unwrap().collect();
    let bytes: Vec<u8> =
        files.into_iter().flat_map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect();
    let holds = |text: &str| bytes.windows(text.len()).any(|part| part == text.as_bytes());
    assert!(holds("clientInfo"), "the record is there to be read");
    assert!(!holds(&session) && !holds(&session.replace('-', "")));
}

#[tokio::test]
async fn parameters_of_unusual_length_stay_in_memory() {
    let backend = Backend::memory();
    let sessions = Sessions::new(backend.store.clone());
    let params = |length: usize| {
        let mut params = rich();
        params["clientInfo"]["title"] = "x".repeat(length).into();
        params
    };
    let replica = Replica::new(&sessions);
    let kept = replica.initialize_with(params(60_000)).await;
    let large = replica.initialize_with(params(70_000)).await;
    assert_eq!((replica.status(&kept).await, replica.status(&large).await), (200, 200));
    let other = Replica::new(&Sessions::new(backend.store.clone()));
    assert_eq!((other.status(&kept).await, other.status(&large).await), (200, 404));

    let state = SessionState::new(serde_json::from_value(params(70_000)).unwrap());
    let error = sessions.store("an id", &state).await.unwrap_err();
    assert_eq!(error.downcast_ref(), Some(&NotKept::TooLarge));
}

#[tokio::test]
async fn what_rmcp_stores_is_what_it_loads() {
    for backend in Backend::all().await {
        let state = SessionState::new(serde_json::from_value(rich()).unwrap());
        Sessions::new(backend.store.clone()).store("an id", &state).await.unwrap();
        let loaded = Sessions::new(backend.store.clone()).load("an id").await.unwrap().unwrap();
        assert_eq!(loaded.initialize_params, state.initialize_params, "{}", backend.name());
        assert_eq!(serde_json::to_value(loaded.initialize_params).unwrap(), rich());
    }
}

#[tokio::test]
async fn an_ended_session_is_not_begun_again() {
    let sessions = Sessions::new(Store::memory());
    let state = SessionState::new(serde_json::from_value(rich()).unwrap());
    sessions.store("an id", &state).await.unwrap();
    sessions.store("an id", &state).await.unwrap();
    sessions.delete("an id").await.unwrap();
    let error = sessions.store("an id", &state).await.unwrap_err();
    assert_eq!(error.downcast_ref(), Some(&NotKept::Ended));
    assert!(sessions.load("an id").await.unwrap().is_none());
}

/// The front page says what rmcp has no place for.
#[test]
fn rmcp_drops_what_it_does_not_know() {
    let mut params = rich();
    params["capabilities"]["tasks"] = json!({"list": {}});
    params["clientInfo"]["vendor"] = json!("x");
    params["unknown"] = json!(1);
    let read: rmcp::model::InitializeRequestParams = serde_json::from_value(params).unwrap();
    assert_eq!(serde_json::to_value(read).unwrap(), rich());
}

/// All records, as text.
async fn records(store: &Store) -> Vec<String> {
    let page = store.list(None, 100, throughline_rmcp::Millis(0)).await.unwrap();
    page.records.iter().map(|(key, stored)| format!("{key} {stored:?}")).collect()
}
