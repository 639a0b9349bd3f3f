//! Calls over plain HTTP/2, which need not be valid gRPC.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use tonic::Status;

/// Response to a call.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) http: StatusCode,
    pub(crate) head: HeaderMap,
    /// From the trailers, or from the head of a trailers-only response.
    pub(crate) status: Status,
    /// The messages, each with its prefix.
    pub(crate) body: Vec<u8>,
}

/// A connection to the gateway.
pub(crate) struct Connection(h2::client::SendRequest<Bytes>);

impl Connection {
    pub(crate) async fn to(gateway: SocketAddr) -> Self {
        let stream = tokio::net::TcpStream::connect(gateway).await.expect("the gateway accepts");
        let (requests, connection) = h2::client::handshake(stream).await.expect("it speaks HTTP/2");
        tokio::spawn(connection);
        Self(requests)
    }

    /// Sends `body` to `path` without framing it.
    pub(crate) async fn post(&mut self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answered {
        let mut request = Request::post(format!("http://gateway{path}"))
            .header("te", "trailers")
            .header("content-type", "application/grpc");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut requests = self.0.clone().ready().await.expect("the connection is open");
        let request = request.body(()).expect("a request");
        let (answer, mut stream) = requests.send_request(request, false).expect("it is sent");
        // The gateway may respond before it has read the body.
        let _ = stream.send_data(Bytes::copy_from_slice(body), true);
        let (head, mut answer) = answer.await.expect("an answer").into_parts();
        let mut body = Vec::new();
        while let Some(data) = answer.data().await {
            let data = data.expect("data");
            body.extend_from_slice(&data);
            answer.flow_control().release_capacity(data.len()).expect("capacity that was used");
        }
        let trailers = answer.trailers().await.expect("the end of the response");
        let status = trailers
            .as_ref()
            .and_then(Status::from_header_map)
            .or_else(|| Status::from_header_map(&head.headers))
            .expect("a gRPC status");
        Answered { http: head.status, head: head.headers, status, body }
    }
}

/// A gRPC frame: compression flag, length and message.
pub(crate) fn framed(compressed: bool, message: &[u8]) -> Vec<u8> {
    let mut frame = vec![u8::from(compressed)];
    frame.extend(u32::try_from(message.len()).expect("a short message").to_be_bytes());
    frame.extend(message);
    frame
}
