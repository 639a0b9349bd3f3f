//! Repeats one operation, to be counted by callgrind or dhat.
//!
//! `reqwest-costs serve` answers requests on a free port of the loopback address, which it prints.
//! `reqwest-costs CASE TIMES ADDRESS` runs a case sequentially.

use std::{
    convert::Infallible,
    env, hint,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    thread,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, Error, connect::HttpConnector},
    rt::TokioExecutor,
};
use tower::{Service, ServiceExt, layer::util::Identity};
use tower_http::follow_redirect::{
    FollowRedirect,
    policy::{Action, PolicyExt, redirect_fn},
};
use url::Url;

type Failure = Box<dyn std::error::Error + Send + Sync>;
type HyperClient = Client<HttpConnector, Full<Bytes>>;

const PATH: &str = "/api/2/idp/ott";
const BODY: &[u8] = br#"{"purpose":"user_login","login":"john@example.com"}"#;
const RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 15\r\n\r\n{\"ott\":\"OTT-1\"}";

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve"] => serve(),
        [case, times, address] => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(run(case, times.parse()?, address))
        }
        _ => Err("usage: reqwest-costs serve | CASE TIMES ADDRESS".into()),
    }
}

async fn run(case: &str, times: usize, address: &str) -> Result<(), Failure> {
    let text = format!("http://{address}{PATH}");
    let (uri, url) = (text.parse::<Uri>()?, Url::parse(&text)?);
    let headers = headers();
    match case {
        "hyper-util" => send(times, hyper_client(None), &uri, &headers).await,
        // As many header lines as fit into 64 KiB.
        "hyper-util-header-room" => send(times, hyper_client(Some(2048)), &uri, &headers).await,
        "follow-redirect" => {
            let never =
                redirect_fn(|_| Ok::<_, Error>(Action::Stop)).or::<_, Full<Bytes>, Error>(Action::Stop);
            send(times, FollowRedirect::with_policy(hyper_client(None), never), &uri, &headers).await
        }
        "reqwest" => send_with_reqwest(times, client().build()?, &url, &headers, reusable).await,
        "reqwest-wrapped-body" => send_with_reqwest(times, client().build()?, &url, &headers, wrapped).await,
        "reqwest-connector-layer" => {
            let client = client().connector_layer(Identity::new()).build()?;
            send_with_reqwest(times, client, &url, &headers, reusable).await
        }
        "parse-url" => {
            for _ in 0..times {
                hint::black_box(Url::parse(&hint::black_box(&uri).to_string())?);
            }
            Ok(())
        }
        "parse-uri" => {
            for _ in 0..times {
                hint::black_box(hint::black_box(&url).as_str().parse::<Uri>()?);
            }
            Ok(())
        }
        "clone-headers" => {
            for _ in 0..times {
                hint::black_box(hint::black_box(&headers).clone());
            }
            Ok(())
        }
        _ => Err("no such case".into()),
    }
}

/// Headers of an API client: one that differs, one secret, the rest static.
fn headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static("reqwest-costs"));
    headers.insert(header::AUTHORIZATION, HeaderValue::from_static("Bearer 0123456789abcdef"));
    headers.insert(HeaderName::from_static("x-request-id"), HeaderValue::from_static("0123456789abcdef"));
    headers
}

fn hyper_client(max_headers: Option<usize>) -> HyperClient {
    let mut builder = Client::builder(TokioExecutor::new());
    if let Some(lines) = max_headers {
        builder.http1_max_headers(lines);
    }
    builder.build_http()
}

/// A client with all optional features disabled.
fn client() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .retry(reqwest::retry::never())
        .no_proxy()
}

async fn send<S, B>(times: usize, mut client: S, uri: &Uri, headers: &HeaderMap) -> Result<(), Failure>
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>>,
    S::Error: std::error::Error + Send + Sync + 'static,
    B: BodyExt + Unpin,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    for _ in 0..times {
        let mut request = Request::new(Full::new(Bytes::from_static(BODY)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri.clone();
        *request.headers_mut() = headers.clone();
        let mut response = client.ready().await?.call(request).await?;
        while let Some(frame) = response.body_mut().frame().await {
            hint::black_box(frame?);
        }
    }
    Ok(())
}

async fn send_with_reqwest(
    times: usize,
    client: reqwest::Client,
    url: &Url,
    headers: &HeaderMap,
    body: impl Fn() -> reqwest::Body,
) -> Result<(), Failure> {
    for _ in 0..times {
        let mut request = reqwest::Request::new(Method::POST, url.clone());
        *request.headers_mut() = headers.clone();
        *request.body_mut() = Some(body());
        let mut response = client.execute(request).await?;
        while let Some(chunk) = response.chunk().await? {
            hint::black_box(chunk);
        }
    }
    Ok(())
}

fn reusable() -> reqwest::Body {
    Bytes::from_static(BODY).into()
}

/// A body that reqwest cannot copy.
fn wrapped() -> reqwest::Body {
    reqwest::Body::wrap(Full::new(Bytes::from_static(BODY)))
}

/// Answers every request with the same response.
fn serve() -> Result<(), Failure> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("{}", listener.local_addr()?);
    for stream in listener.incoming() {
        let stream = stream?;
        thread::spawn(move || answer(&stream));
    }
    Ok(())
}

fn answer(mut stream: &TcpStream) -> Result<Infallible, Failure> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Err("the connection has ended".into());
            }
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(": ")
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.parse()?;
            }
        }
        reader.read_exact(&mut vec![0; length])?;
        stream.write_all(RESPONSE)?;
    }
}
