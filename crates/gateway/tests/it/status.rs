//! The status page.

use crate::harness::{Gw, Session, Upstream, parse, until};

#[test]
fn it_shows_what_the_instance_is_doing() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = Session::open(&gateway.client());
    session.count();
    upstream.server().lose_sessions();
    session.count();
    let page = gateway.client().at("/").get();
    assert_eq!(page.status, 200);
    assert_eq!(page.headers.get("content-type"), Some("text/html; charset=utf-8"));
    let policy = page.headers.get("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    let instance = page.headers.get("throughline-instance").unwrap();
    for part in [instance, "Throughline gateway", &upstream.url(), "1 / 0", "<polyline"] {
        assert!(page.text().contains(part), "{part} in {}", page.text());
    }
    let status = parse(gateway.client().at("/status.json").get().text());
    let fact = |name: &str| {
        let facts = status["facts"].as_array().unwrap();
        facts.iter().find(|fact| fact["name"] == name).unwrap()["value"].as_str().unwrap().to_owned()
    };
    assert_eq!((fact("Sessions recovered").as_str(), fact("Sessions in memory").as_str()), ("1", "1"));
    let row = &status["tables"][0]["rows"][0];
    assert_eq!(
        (&row[0], &row[3], &row[4], &row[6]),
        (&"/mcp".into(), &"1".into(), &"0".into(), &"1 / 0".into())
    );
    for (path, kind) in [("/status.css", "text/css"), ("/status.js", "text/javascript")] {
        let asset = gateway.client().at(path).get();
        assert_eq!(asset.status, 200);
        assert!(asset.headers.get("content-type").unwrap().starts_with(kind));
    }
}

#[test]
fn its_figures_come_step_by_step() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = Session::open(&gateway.client());
    session.count();
    until("a step to end", || {
        let status = parse(gateway.client().at("/status.json").get().text());
        status["requests"].as_array().unwrap().iter().filter_map(|count| count.as_u64()).sum::<u64>() == 3
    });
}

#[test]
fn the_clients_of_a_proxy_do_not_see_it() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    for path in ["/", "/status.json", "/status.css"] {
        let forwarded = gateway.client().at(path).with("x-forwarded-for", "192.0.2.1").get();
        assert_eq!(forwarded.status, 404, "{path}");
        assert_eq!(gateway.client().at(path).post("{}").status, 404, "{path}");
    }
}

#[test]
fn the_administrator_sees_it_with_the_token() {
    let upstream = Upstream::start();
    let gateway = Gw::start_with(&upstream, |config| {
        config.admin = Some("127.0.0.1:0".parse().unwrap());
    });
    for path in ["/", "/status.json", "/status.js"] {
        assert_eq!(gateway.admin().at(path).get().status, 200, "{path}");
        assert_eq!(gateway.admin().at(path).without("authorization").get().status, 401, "{path}");
    }
}
