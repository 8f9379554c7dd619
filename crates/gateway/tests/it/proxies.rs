//! Upstreams behind a proxy, as the environment names it. And the headers that every request carries.

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use throughline_gateway::Config;
use throughline_gateway::config::Overrides;

use crate::harness::{Certificates, Front, Gw, Session, Upstream, initialize_body, logged};

fn through(config: &mut Config, address: SocketAddr) {
    let proxy = format!("http://me:s3cret-of-mine@{address}");
    let env = |name: &str| ["HTTP_PROXY", "HTTPS_PROXY"].contains(&name).then(|| proxy.clone());
    config.apply(Overrides::from_env(&env).unwrap());
}

/// The base64 of `me:s3cret-of-mine`.
const CREDENTIALS: &str = "Basic bWU6czNjcmV0LW9mLW1pbmU=";

#[test]
fn at_http_the_proxy_is_told_the_whole_url() {
    // It plays the proxy and what is behind it at once.
    let upstream = Upstream::start();
    let gateway = Gw::start_with(&upstream, |config| {
        through(config, upstream.address);
        config.routes[0].upstream = vec![http::Uri::from_static("http://mcp.test/mcp?a=b")];
    });
    assert_eq!(Session::open(&gateway.client()).count(), "1");
    for request in upstream.log() {
        assert_eq!(request.target, "http://mcp.test/mcp?a=b");
        assert_eq!(request.headers.get("host"), Some("mcp.test"));
        assert_eq!(request.headers.get("proxy-authorization"), Some(CREDENTIALS));
    }
    assert!(!logged("s3cret-of-mine") && !logged("bWU6czNjcmV0"));
}

/// A proxy that answers CONNECT so, and where that is good, tunnels to this address.
fn proxy(answer: &'static str, to: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&heads);
    std::thread::spawn(move || {
        for near in listener.incoming() {
            let (mut near, seen) = (near.unwrap(), Arc::clone(&seen));
            std::thread::spawn(move || {
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && near.read(&mut byte).unwrap() == 1 {
                    head.push(byte[0]);
                }
                seen.lock().unwrap().push(String::from_utf8(head).unwrap());
                near.write_all(format!("HTTP/1.1 {answer}\r\nvia: x\r\n\r\n").as_bytes()).unwrap();
                if !answer.starts_with('2') {
                    return;
                }
                let mut far = TcpStream::connect(to).unwrap();
                let (mut from_far, mut to_near) = (far.try_clone().unwrap(), near.try_clone().unwrap());
                std::thread::spawn(move || std::io::copy(&mut from_far, &mut to_near));
                let _ = std::io::copy(&mut BufReader::new(near), &mut far);
            });
        }
    });
    (address, heads)
}

#[test]
fn at_https_the_proxy_tunnels() {
    let (upstream, certificates) = (Upstream::start(), Certificates::new());
    let front = Front::start(&upstream, certificates.server("mcp.test"));
    let (address, heads) = proxy("200 Connection established", front.address);
    let gateway = Gw::start_with(&upstream, |config| {
        through(config, address);
        config.routes[0].upstream = vec![http::Uri::from_static("https://mcp.test/mcp")];
        config.routes[0].ca = Some(certificates.ca());
    });
    assert_eq!(Session::open(&gateway.client()).count(), "1");
    let expected = format!(
        "CONNECT mcp.test:443 HTTP/1.1\r\nHost: mcp.test:443\r\nProxy-Authorization: {CREDENTIALS}\r\n\r\n"
    );
    assert!(heads.lock().unwrap().iter().all(|head| *head == expected));
    let request = &upstream.log()[0];
    assert_eq!((request.target.as_str(), request.headers.get("proxy-authorization")), ("/mcp", None));
}

#[test]
fn a_proxy_that_refuses_is_told_in_the_log() {
    let upstream = Upstream::start();
    let certificates = Certificates::new();
    let (address, heads) = proxy("407 Proxy Authentication Required", upstream.address);
    let gateway = Gw::start_with(&upstream, |config| {
        through(config, address);
        config.routes[0].upstream = vec![http::Uri::from_static("https://mcp.test/mcp")];
        config.routes[0].ca = Some(certificates.ca());
    });
    let answer = gateway.client().post(initialize_body("2025-06-18", "{}"));
    assert_eq!((answer.status, answer.code()), (502, -32010));
    assert!(!answer.text().contains("proxy") && !answer.text().contains("mcp.test"), "{}", answer.text());
    assert!(logged("the proxy answered 407 to CONNECT"));
    assert_eq!(heads.lock().unwrap().len(), 1, "asking again would not help");
}

#[test]
fn loopback_is_never_behind_a_proxy() {
    let (upstream, nobody) = (Upstream::start(), TcpListener::bind("127.0.0.1:0").unwrap());
    let gateway = Gw::start_with(&upstream, |config| through(config, nobody.local_addr().unwrap()));
    assert_eq!(Session::open(&gateway.client()).count(), "1");
}

#[test]
fn configured_headers_are_part_of_every_request_and_never_logged() {
    let upstream = Upstream::start();
    let text = "[upstream]\nurl = \"UPSTREAM\"\nheaders = { x-team = \"search-7391\", authorization = { env = \"KEY\" } }";
    let mut config = Config::parse(&text.replace("UPSTREAM", &upstream.url()), "t.toml").unwrap();
    config.resolve(&|name| (name == "KEY").then(|| "Bearer k3y-from-env".to_owned())).unwrap();
    let gateway = Gw::run(&upstream, config, throughline_gateway::Effects::REAL);
    let client = gateway.client().with("x-team", "forged").with("authorization", "Bearer clients");
    let session = Session::open(&client);
    assert_eq!(session.count(), "1");
    upstream.server().lose_sessions();
    assert_eq!(session.count(), "1");
    let _stream = session.listen();
    session.client.delete();
    upstream.wait_for("DELETE", 1);
    for request in upstream.log() {
        let values = |name: &str| {
            let values = request.headers.0.iter().filter(|(known, _)| known == name);
            values.map(|(_, value)| value.clone()).collect::<Vec<_>>()
        };
        assert_eq!(values("x-team"), ["search-7391"], "{}", request.rpc());
        assert_eq!(values("authorization"), ["Bearer k3y-from-env"], "{}", request.rpc());
    }
    assert!(!logged("search-7391") && !logged("k3y-from-env"));
}
