//! Who signs in, and over what.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::Command;

use data_encoding::BASE64URL_NOPAD;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use throughline_store::{Place, Store, StoreError};

use crate::servers::{Cluster, Server, eventually, free_port, store};
use crate::{NOW, get, key, put_new, record};

async fn opened(url: &str) -> Store {
    Store::redis(&Place::parse(url).unwrap()).await.unwrap()
}

/// Adds a user besides the administrator of the tests, who has the rights that the documentation says are enough.
fn add_user(server: &Server) {
    let documented = include_str!("../../../../../docs/scaling.md");
    let line = documented.lines().find(|line| line.starts_with("ACL SETUSER ")).unwrap();
    let line = line.replace(">PASSWORD", ">right@").replace("throughline on", "gateway on");
    server.must(&line.split(' ').collect::<Vec<_>>());
}

fn guarded() -> Server {
    let server = Server::start(&[]);
    add_user(&server);
    server
}

#[tokio::test]
async fn a_user_with_the_rights_it_needs() {
    let server = guarded();
    let url = |user_info: &str| format!("redis://{user_info}@127.0.0.1:{}?timeout=5s", server.port);
    let store = store(&url("gateway:right%40")).await;
    put_new(&store, key(1), record(1)).await;
    store.touch_many(&[(key(1), NOW)]).await.unwrap();
    assert_eq!(store.list(None, 10, NOW).await.unwrap().records.len(), 1);
    assert!(store.turn("x", std::time::Duration::from_secs(1)).await.unwrap());
    crate::delete(&store, key(1)).await;
    assert!(!format!("{store:?} {}", store.describe()).contains("right"));

    let store = opened(&url("gateway:wrong")).await;
    let error = store.get(key(1), NOW).await.unwrap_err();
    assert!(matches!(error, StoreError::Refused { .. }), "{error}");
    for text in [error.to_string(), store.trouble().unwrap().to_string()] {
        assert!(text.contains("user or password is not accepted") && !text.contains("gateway:"), "{text}");
        assert_eq!(text.lines().count(), 1);
    }

    server.must(&["ACL", "SETUSER", "gateway", "-publish"]);
    let store = opened(&url("gateway:right%40")).await;
    let error = store.get(key(1), NOW).await.unwrap_err();
    assert!(matches!(error, StoreError::Forbidden { .. }), "{error}");
    server.must(&["ACL", "SETUSER", "gateway", "+publish"]);
    super::recovered(&store).await;
}

#[tokio::test]
async fn what_else_needs_a_right() {
    let server = guarded();
    server.must(&["ACL", "SETUSER", "gateway", "+select"]);
    let url = format!("redis://gateway:right%40@127.0.0.1:{}/2?timeout=5s", server.port);
    put_new(&store(&url).await, key(1), record(1)).await;

    let cluster = Cluster::start();
    for node in &cluster.nodes {
        add_user(node);
        node.must(&["ACL", "SETUSER", "gateway", "+cluster|slots", "+asking"]);
    }
    let store = store(&cluster.url().replace("://", "://gateway:right%40@")).await;
    for n in 0..10 {
        put_new(&store, key(n), record(1)).await;
    }
    let mut page = store.list(None, 100, NOW).await.unwrap();
    let mut listed = page.records.len();
    while let Some(next) = page.next {
        page = store.list(Some(next), 100, NOW).await.unwrap();
        listed += page.records.len();
    }
    assert_eq!(listed, 10);
}

#[tokio::test]
async fn a_password_that_is_replaced_is_read_again() {
    let server = guarded();
    let file = server.dir().join("password");
    std::fs::write(&file, "right@\n").unwrap();
    let file_url =
        format!("redis://gateway@127.0.0.1:{}?timeout=5s&password_file={}", server.port, file.display());
    let store = store(&file_url).await;
    put_new(&store, key(1), record(1)).await;
    server.must(&["ACL", "SETUSER", "gateway", "resetpass", ">next"]);
    server.must(&["CLIENT", "KILL", "USER", "gateway"]);
    eventually("the store to notice", async || {
        store.get(key(1), NOW).await.is_err_and(|error| matches!(error, StoreError::Refused { .. }))
    })
    .await;
    std::fs::write(&file, "next").unwrap();
    super::recovered(&store).await;
    assert!(get(&store, key(1)).await.is_some());

    std::fs::remove_file(&file).unwrap();
    server.must(&["CLIENT", "KILL", "USER", "gateway"]);
    super::in_trouble(&store, "cannot be read").await;
}

#[tokio::test]
async fn azures_form_and_a_database_number() {
    let server = Server::start(&["--requirepass", "pass=word"]);
    let text = format!(
        "127.0.0.1:{},password=pass=word,ssl=False,defaultDatabase=3,abortConnect=False,timeout=5s",
        server.port
    );
    let store = store(&text).await;
    put_new(&store, key(1), record(1)).await;
    let other = text.replace("defaultDatabase=3", "defaultDatabase=4");
    assert_eq!(get(&crate::servers::store(&other).await, key(1)).await, None);
    assert_eq!(get(&crate::servers::store(&text).await, key(1)).await.unwrap().record, record(1));
}

/// A server that also speaks TLS on another port, and who vouches for it.
fn with_tls() -> (Server, u16) {
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &ca).unwrap();
    let port = free_port();
    let files = |dir: &std::path::Path| {
        std::fs::write(dir.join("ca.pem"), ca.pem()).unwrap();
        std::fs::write(dir.join("cert.pem"), certificate.pem()).unwrap();
        std::fs::write(dir.join("key.pem"), key.serialize_pem()).unwrap();
        Vec::new()
    };
    let tls = ["--tls-cert-file", "cert.pem", "--tls-key-file", "key.pem", "--tls-auth-clients", "no"];
    let port_text = port.to_string();
    (Server::with(files, &[&tls[..], &["--tls-port", &port_text]].concat()), port)
}

#[tokio::test]
async fn tls_with_a_ca_of_ones_own() {
    let (server, port) = with_tls();
    let ca = server.dir().join("ca.pem").display().to_string();
    let store = store(&format!("rediss://localhost:{port}?timeout=5s&ca={ca}")).await;
    put_new(&store, key(1), record(1)).await;
    assert_eq!(get(&server.store().await, key(1)).await.unwrap().record, record(1));

    // The system's roots know nothing of that CA.
    let unknown = opened(&format!("rediss://localhost:{port}?timeout=5s")).await;
    assert!(unknown.trouble().unwrap().contains("certificate"), "{:?}", unknown.trouble());
}

/// Names the address to the child.
const CHILD_URL: &str = "THROUGHLINE_STORE_TEST_URL";

/// Not a test but the child of the one below, which needs an environment of its own. In an ordinary run there is
/// no address, and nothing to do.
#[tokio::test]
async fn child() {
    let Ok(url) = std::env::var(CHILD_URL) else { return };
    let store = store(&url).await;
    put_new(&store, key(1), record(1)).await;
}

#[test]
fn a_managed_identity_signs_in_with_its_token() {
    let (server, port) = with_tls();
    let claims = BASE64URL_NOPAD.encode(br#"{"oid":"identity","iat":1}"#);
    let token = format!("e30.{claims}.signature");
    let password = format!(">{token}");
    server.must(&["ACL", "SETUSER", "identity", "on", &password, "~*", "&*", "+@all"]);
    let platform = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}/token", platform.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in platform.incoming() {
            let mut stream = stream.unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let asked = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).count();
            assert!(asked > 1);
            let body = format!(r#"{{"access_token":"{token}","expires_in":"3600"}}"#);
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        }
    });
    let ca = server.dir().join("ca.pem").display().to_string();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "redis::sign_in::child", "--test-threads=1"])
        .env(CHILD_URL, format!("rediss://localhost:{port}?timeout=5s&auth=entra&ca={ca}"))
        .env("IDENTITY_ENDPOINT", endpoint)
        .env("IDENTITY_HEADER", "shared")
        .output()
        .unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
    let name = format!("throughline:s:{{{}}}", key(1));
    assert_eq!(server.must(&["EXISTS", &name]), redis::Value::Int(1));
}

#[tokio::test]
async fn certificates_that_cannot_be_read_are_an_error_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ca.pem");
    for (text, part) in [(None, "No such file"), (Some("nothing"), "it holds none")] {
        if let Some(text) = text {
            std::fs::write(&file, text).unwrap();
        }
        let place = Place::parse(&format!("rediss://:secret@h?ca={}", file.display())).unwrap();
        let error = Store::redis(&place).await.unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, StoreError::Unusable { .. }) && text.contains(part), "{text}");
        assert!(!text.contains("secret") && text.lines().count() == 1, "{text}");
    }
}
