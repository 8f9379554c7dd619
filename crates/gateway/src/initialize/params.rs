//! What a client announces in `initialize`.

use throughline_wire::capability::Capabilities;
use throughline_wire::envelope::{self, Span};
use throughline_wire::splice::{set_member, splice};
use throughline_wire::version::ProtocolVersion;

use crate::app::{Core, Route, first};
use crate::error::Fault;

/// Longest parameters, in bytes: they are kept as long as the session.
const MAX_PARAMS: usize = 16 * 1024;

/// What a client announced in `initialize`.
#[derive(Clone, Debug)]
pub struct InitializeParams {
    /// Raw JSON of the parameters, sent upstream as it is.
    pub raw: String,
    /// The requested protocol version, as text: it need not be one that we know.
    pub version: String,
    capabilities: Span,
    client: Span,
}

impl InitializeParams {
    /// Reads raw JSON.
    ///
    /// # Errors
    /// [`Fault::InitializeParams`] where a member that the protocol requires is missing.
    pub fn read(raw: &[u8]) -> Result<Self, Fault> {
        if raw.len() > MAX_PARAMS {
            return Err(Fault::BodyTooLarge(MAX_PARAMS));
        }
        let member = |name: &str| envelope::member(raw, name).map_err(|_| Fault::InitializeParams);
        let version = member("protocolVersion")?.and_then(|span| envelope::string_value(&raw[span]));
        let object = |span: &Span| raw[span.start] == b'{';
        let capabilities = member("capabilities")?.filter(object);
        let client = member("clientInfo")?.filter(object);
        let raw = std::str::from_utf8(raw).map_err(|_| Fault::InitializeParams)?;
        match (version, capabilities, client) {
            (Some(version), Some(capabilities), Some(client)) => Ok(InitializeParams {
                version: version.into_owned(),
                raw: raw.to_owned(),
                capabilities,
                client,
            }),
            _ => Err(Fault::InitializeParams),
        }
    }

    /// For a client whose own parameters are not known.
    pub fn synthetic(version: ProtocolVersion, capabilities: Capabilities) -> Self {
        let capabilities = capabilities.to_json();
        let client = concat!(r#"{"name":"throughline","version":""#, env!("CARGO_PKG_VERSION"), r#""}"#);
        let before = format!(r#"{{"protocolVersion":"{version}","capabilities":"#);
        let between = r#","clientInfo":"#;
        let start = before.len();
        let client_start = start + capabilities.len() + between.len();
        InitializeParams {
            version: version.as_str().to_owned(),
            capabilities: start..start + capabilities.len(),
            client: client_start..client_start + client.len(),
            raw: format!("{before}{capabilities}{between}{client}}}"),
        }
    }

    /// Raw JSON of what the client said that it is.
    pub fn client(&self) -> &[u8] {
        self.raw[self.client.clone()].as_bytes()
    }

    /// Raw JSON of what the client said that it can do.
    pub fn raw_capabilities(&self) -> &[u8] {
        self.raw[self.capabilities.clone()].as_bytes()
    }

    /// What the client said that it can do.
    pub fn capabilities(&self) -> Capabilities {
        Capabilities::from_json(self.raw_capabilities())
    }

    /// The same, announcing nothing.
    pub fn without_capabilities(&self) -> Self {
        let raw = self.raw.as_bytes();
        set_member(raw, &(0..raw.len()), "capabilities", b"{}")
            .ok()
            .map(|edit| splice(raw, &mut [edit]))
            .and_then(|raw| Self::read(&raw).ok())
            .unwrap_or_else(|| self.clone())
    }

    /// Names what an upstream's answer may depend on: {route, principal, version, capabilities, client name and
    /// version}. Other members of the parameters differ from call to call (Copilot Studio's `sessionContext`).
    pub(super) fn digest(&self, core: &Core, route: &Route, principal: &[u8; 16]) -> [u8; 16] {
        let client = self.client();
        let text = |name| match envelope::member(client, name) {
            Ok(Some(span)) => &client[span],
            _ => b"",
        };
        let parts = [
            &route.digest[..],
            principal,
            self.version.as_bytes(),
            self.raw_capabilities(),
            text("name"),
            text("version"),
        ];
        first(&core.app.keys.digest("initialize", &parts))
    }
}
