//! A load balancer that knows nothing of MCP: nginx, which sends one request here and the next there.

use std::path::Path;

use tempfile::TempDir;

use super::process::{Process, free_port};

/// One that runs; it ends when it is dropped.
pub(crate) struct Balancer {
    _process: Process,
    base: String,
    _dir: TempDir,
}

impl Balancer {
    /// In front of these (`http://HOST:PORT`), in turn.
    pub(crate) fn start(backends: &[String]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let port = free_port();
        let file = dir.path().join("nginx.conf");
        std::fs::write(&file, configuration(port, backends, dir.path())).expect("the configuration");
        let file = file.to_str().expect("a path in UTF-8");
        let log = dir.path().join("error.log");
        let arguments = ["-c", file, "-e", log.to_str().expect("a path in UTF-8")];
        let mut process = Process::start("nginx", "nginx", &arguments);
        let base = format!("http://127.0.0.1:{port}");
        process.wait_until_answered(&format!("{base}/readyz"));
        Balancer { _process: process, base, _dir: dir }
    }

    /// The MCP endpoint behind it.
    pub(crate) fn url(&self) -> String {
        format!("{}/mcp", self.base)
    }
}

fn configuration(port: u16, backends: &[String], dir: &Path) -> String {
    let servers: String = backends
        .iter()
        .map(|backend| format!("    server {};\n", backend.trim_start_matches("http://")))
        .collect();
    let dir = dir.display();
    format!(
        "daemon off;\nmaster_process off;\npid {dir}/pid;\nevents {{}}\nhttp {{\n  access_log off;\n  \
         client_body_temp_path {dir}/body;\n  proxy_temp_path {dir}/proxy;\n  fastcgi_temp_path {dir}/fastcgi;\n  \
         uwsgi_temp_path {dir}/uwsgi;\n  scgi_temp_path {dir}/scgi;\n  upstream replicas {{\n{servers}    \
         keepalive 32;\n  }}\n  server {{\n    listen 127.0.0.1:{port};\n    location / {{\n      \
         proxy_pass http://replicas;\n      proxy_http_version 1.1;\n      proxy_set_header Connection \"\";\n      \
         proxy_set_header Host $http_host;\n      proxy_buffering off;\n      proxy_read_timeout 300s;\n    }}\n  }}\n}}\n"
    )
}
