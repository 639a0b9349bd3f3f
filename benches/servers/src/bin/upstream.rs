//! The platform of the benchmarks: fixed responses, at once or after a fixed delay.
//!
//! `bench-upstream [--certificate FILE --private-key FILE] [--delay-ms N]` listens on a free
//! loopback port, with HTTP/1.1 in clear text or with HTTP/1.1 and HTTP/2 over TLS, and prints
//! `service=PORT counts=PORT`. A request without the access token is refused, so that a proxy that
//! does not authenticate cannot be measured by mistake. `GET /` on the second port returns the
//! number of answered requests of each kind.

use std::{
    convert::Infallible,
    fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bench_servers::{Failure, option};
use bytes::Bytes;
use http::{
    HeaderValue, Request, Response, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, SET_COOKIE},
};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

const ACCESS_TOKEN: &str = r#"{"access_token":"bench-access-token","expires_in":7200,"token_type":"bearer"}"#;
const BEARER: &str = "Bearer bench-access-token";
const OTT: &str = r#"{"ott":"T1RUAQAAAG8-AAAAAAAATxLwKLZ0RMaVZ3GEk4JUMw=="}"#;
const ACCOUNT: &str = include_str!("../../../../tests/data/platform-login-response.json");
const COOKIES: [&str; 2] = [
    "bench_session_id=8f14e45fceea167a5a36dedd4bea2543; Path=/; HttpOnly; SameSite=Lax",
    "bench_session_key=c9f0f895fb98ab9159f51fd0297e236d; Path=/; HttpOnly; SameSite=Lax",
];

/// Requests answered since the start.
#[derive(Debug, Default)]
struct Counts {
    access_tokens: AtomicU64,
    otts: AtomicU64,
    logins: AtomicU64,
    refused: AtomicU64,
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Failure> {
    let delay = Duration::from_millis(option("--delay-ms").map_or(Ok(0), |text| text.parse())?);
    let tls = match (option("--certificate"), option("--private-key")) {
        (Some(certificate), Some(key)) => Some(acceptor(&certificate, &key)?),
        _ => None,
    };
    let service = TcpListener::bind("127.0.0.1:0").await?;
    let counter = TcpListener::bind("127.0.0.1:0").await?;
    println!("service={} counts={}", service.local_addr()?.port(), counter.local_addr()?.port());

    let counts = Arc::new(Counts::default());
    let shown = Arc::clone(&counts);
    tokio::spawn(accept(counter, None, move |_| {
        let shown = Arc::clone(&shown);
        async move { page(&shown) }
    }));
    accept(service, tls, move |request| answer(request, Arc::clone(&counts), delay)).await
}

fn acceptor(certificate: &str, key: &str) -> Result<TlsAcceptor, Failure> {
    let chain = CertificateDer::pem_slice_iter(&fs::read(certificate)?).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(&fs::read(key)?)?;
    let mut config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serves each connection in a separate task. Returns only if no connection can be accepted.
async fn accept<F, A>(listener: TcpListener, tls: Option<TlsAcceptor>, answer: F) -> Result<(), Failure>
where
    F: Fn(Request<Incoming>) -> A + Clone + Send + 'static,
    A: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (tls, answer) = (tls.clone(), answer.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let answer = answer(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let mut server = Builder::new(TokioExecutor::new());
            server.http2().max_concurrent_streams(1000);
            // The client's results report lost connections.
            let _ = match tls {
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => server.serve_connection(TokioIo::new(stream), service).await,
                    Err(error) => Err(error.into()),
                },
                None => server.serve_connection(TokioIo::new(stream), service).await,
            };
        });
    }
}

async fn answer(request: Request<Incoming>, counts: Arc<Counts>, delay: Duration) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else { return refusal(&counts, StatusCode::BAD_REQUEST) };
    let body = body.to_bytes();
    let has = |member: &str| body.windows(member.len()).any(|window| window == member.as_bytes());
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    match head.uri.path() {
        "/api/2/idp/token" => counted(&counts.access_tokens, ACCESS_TOKEN),
        "/api/2/idp/ott" if !has("\"login\"") => refusal(&counts, StatusCode::BAD_REQUEST),
        "/api/2/idp/ott" if head.headers.get(AUTHORIZATION).is_none_or(|value| value != BEARER) => {
            refusal(&counts, StatusCode::UNAUTHORIZED)
        }
        "/api/2/idp/ott" => counted(&counts.otts, OTT),
        "/api/2/idp/ott/login" if has("\"ott\"") => {
            let mut response = counted(&counts.logins, ACCOUNT);
            for cookie in COOKIES {
                response.headers_mut().append(SET_COOKIE, HeaderValue::from_static(cookie));
            }
            response
        }
        "/" => Response::default(),
        _ => refusal(&counts, StatusCode::NOT_FOUND),
    }
}

fn counted(counter: &AtomicU64, body: &'static str) -> Response<Full<Bytes>> {
    counter.fetch_add(1, Ordering::Relaxed);
    json(Full::from(body))
}

fn refusal(counts: &Counts, status: StatusCode) -> Response<Full<Bytes>> {
    counts.refused.fetch_add(1, Ordering::Relaxed);
    let mut response = json(Full::from(r#"{"error":{"code":400,"message":"refused by the benchmark"}}"#));
    *response.status_mut() = status;
    response
}

fn page(counts: &Counts) -> Response<Full<Bytes>> {
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let page = serde_json::json!({
        "access_tokens": read(&counts.access_tokens),
        "otts": read(&counts.otts),
        "logins": read(&counts.logins),
        "refused": read(&counts.refused),
    });
    json(Full::from(page.to_string()))
}

fn json(body: Full<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
