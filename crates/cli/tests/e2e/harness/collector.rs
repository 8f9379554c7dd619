//! Whoever collects traces and metrics: OpenTelemetry's collector, as far as OTLP over HTTP goes, and the ingestion
//! endpoint of Application Insights.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use flate2::read::GzDecoder;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{NumberDataPoint, number_data_point};
use prost::Message;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Map, Value, json};

/// What is delivered, for as long as the test runs.
pub(crate) struct Collector {
    base: String,
    status: Arc<AtomicU16>,
    delivered: Arc<Mutex<Vec<Delivered>>>,
}

/// One request.
#[derive(Clone)]
struct Delivered {
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Collector {
    /// Listens, and takes everything.
    pub(crate) fn start() -> Self {
        Self::listen("http", serve)
    }

    /// The same by TLS, as Application Insights has it; with the certificate that vouches for it, in PEM.
    pub(crate) fn start_tls() -> (Self, String) {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
        let tls = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|tls| tls.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key))
            .map(Arc::new)
            .expect("TLS");
        let collector = Self::listen("https", move |socket: TcpStream, answers: &_, takes: &_| {
            let connection = ServerConnection::new(Arc::clone(&tls)).expect("a connection");
            serve(StreamOwned::new(connection, socket), answers, takes)
        });
        (collector, made.cert.pem())
    }

    fn listen(
        scheme: &str,
        serve: impl Fn(TcpStream, &AtomicU16, &Mutex<Vec<Delivered>>) -> Option<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let base = format!("{scheme}://{}", listener.local_addr().expect("its address"));
        let serve = Arc::new(serve);
        let (status, delivered) = (Arc::new(AtomicU16::new(200)), Arc::<Mutex<Vec<_>>>::default());
        let (answers, takes) = (Arc::clone(&status), Arc::clone(&delivered));
        thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                let (serve, answers, takes) = (Arc::clone(&serve), Arc::clone(&answers), Arc::clone(&takes));
                thread::spawn(move || serve(socket, &answers, &takes));
            }
        });
        Self { base, status, delivered }
    }

    /// Where it is, without a path.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// Answers with this status from now on. What is refused is not taken.
    pub(crate) fn answer(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }

    fn at(&self, path: &str) -> Vec<Delivered> {
        self.delivered.lock().unwrap().iter().filter(|delivered| delivered.path == path).cloned().collect()
    }

    /// The values of a header over all deliveries of traces.
    pub(crate) fn headers(&self, name: &str) -> Vec<String> {
        let headers = self.at("/v1/traces").into_iter().flat_map(|delivered| delivered.headers);
        headers.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
    }

    /// All spans: their members as OTLP names them, the attributes of span and resource by name.
    pub(crate) fn spans(&self) -> Vec<Value> {
        let mut spans = Vec::new();
        for delivered in self.at("/v1/traces") {
            let request = ExportTraceServiceRequest::decode(&*delivered.body).expect("traces");
            for of in request.resource_spans {
                let resource = by_name(&of.resource.expect("a resource").attributes);
                for span in of.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                    spans.push(json!({
                        "trace": hexadecimal(&span.trace_id),
                        "id": hexadecimal(&span.span_id),
                        "parent": hexadecimal(&span.parent_span_id),
                        "name": span.name,
                        "kind": span.kind,
                        "attributes": by_name(&span.attributes),
                        "resource": resource,
                    }));
                }
            }
        }
        spans
    }

    /// All numbers of this metric, the newest last, with their attributes and those of their resource.
    pub(crate) fn numbers(&self, metric: &str) -> Vec<Value> {
        let mut numbers = Vec::new();
        for delivered in self.at("/v1/metrics") {
            let request = ExportMetricsServiceRequest::decode(&*delivered.body).expect("metrics");
            for of in request.resource_metrics {
                let resource = by_name(&of.resource.expect("a resource").attributes);
                let metrics = of.scope_metrics.into_iter().flat_map(|scope| scope.metrics);
                for found in metrics.filter(|found| found.name == metric) {
                    let points: Vec<NumberDataPoint> = match found.data {
                        Some(Data::Gauge(gauge)) => gauge.data_points,
                        Some(Data::Sum(sum)) => sum.data_points,
                        _ => Vec::new(),
                    };
                    numbers.extend(points.into_iter().map(|point| {
                        let value = match point.value {
                            Some(number_data_point::Value::AsDouble(value)) => json!(value),
                            Some(number_data_point::Value::AsInt(value)) => json!(value as f64),
                            None => Value::Null,
                        };
                        json!({ "value": value, "attributes": by_name(&point.attributes), "resource": resource })
                    }));
                }
            }
        }
        numbers
    }

    /// All that was told to Application Insights, of this kind: `Request`, `Metric`.
    pub(crate) fn items(&self, kind: &str) -> Vec<Value> {
        let mut items = Vec::new();
        for delivered in self.at("/v2/track") {
            let mut text = String::new();
            GzDecoder::new(&*delivered.body).read_to_string(&mut text).expect("gzip");
            items.extend(serde_json::from_str::<Vec<Value>>(&text).expect("a list"));
        }
        items.retain(|item| item["name"] == format!("Microsoft.ApplicationInsights.{kind}"));
        items
    }
}

/// Takes one request after the other, until the other side has none.
fn serve(stream: impl Read + Write, status: &AtomicU16, delivered: &Mutex<Vec<Delivered>>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|&read| read > 0)?;
        let path = line.split(' ').nth(1)?.to_owned();
        let mut headers = Vec::new();
        loop {
            line.clear();
            reader.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let length = headers.iter().find(|(name, _)| name == "content-length")?.1.parse().ok()?;
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let status = status.load(Ordering::Relaxed);
        if status == 200 {
            delivered.lock().unwrap().push(Delivered { path, headers, body });
        }
        write!(reader.get_mut(), "HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n").ok()?;
    }
}

fn by_name(attributes: &[KeyValue]) -> Value {
    let value = |attribute: &KeyValue| match attribute.value.clone()?.value? {
        Any::StringValue(text) => Some(json!(text)),
        Any::BoolValue(yes) => Some(json!(yes)),
        Any::IntValue(number) => Some(json!(number)),
        Any::DoubleValue(number) => Some(json!(number)),
        _ => None,
    };
    let named = |attribute: &KeyValue| Some((attribute.key.clone(), value(attribute)?));
    Value::Object(attributes.iter().filter_map(named).collect::<Map<_, _>>())
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
