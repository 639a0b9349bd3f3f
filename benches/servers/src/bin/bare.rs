//! A minimal gateway: a tonic server that calls the platform with reqwest.
//!
//! `bench-bare --listen ADDRESS --upstream URL [--certificate FILE --private-key FILE --ca FILE]`
//! fetches one access token and never renews it. It has no caller identification, rules, quotas,
//! limits, retries, audit records, metrics or log, and every failure is UNKNOWN. The difference to
//! the gateway is the cost of these.

use std::{fs, net::SocketAddr, time::Duration};

use bench_servers::{Failure, option, required};
use reqwest::{Certificate, Client, header::SET_COOKIE};
use serde::Deserialize;
use tonic::{
    Request, Response, Status,
    transport::{Identity, Server, ServerTlsConfig},
};

#[expect(unused_qualifications, clippy::pedantic, reason = "generated code")]
mod contract {
    tonic::include_proto!("ott.v1");
}

use contract::{
    Contact, Cookie, IssueOttRequest, IssueOttResponse, LoginWithOttRequest, LoginWithOttResponse, Session,
    UserAccount,
    issue_ott_request::Subject,
    ott_service_server::{OttService, OttServiceServer},
};

struct Bare {
    client: Client,
    upstream: String,
    access_token: String,
}

#[derive(Deserialize)]
struct AccessToken {
    access_token: String,
}

#[derive(Deserialize)]
struct Ott {
    ott: String,
}

#[derive(Deserialize)]
struct Account {
    id: String,
    login: String,
    tenant_id: String,
    enabled: bool,
    contact: Person,
}

#[derive(Deserialize)]
struct Person {
    email: String,
    firstname: String,
    lastname: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let listen: SocketAddr = required("--listen")?.parse()?;
    let upstream = required("--upstream")?;
    let mut client = Client::builder().timeout(Duration::from_secs(10));
    if let Some(file) = option("--ca") {
        client = client.tls_certs_only([Certificate::from_pem(&fs::read(file)?)?]);
    }
    let client = client.build()?;
    let token: AccessToken = client
        .post(format!("{upstream}/api/2/idp/token"))
        .basic_auth("bench", Some("bench-secret"))
        .send()
        .await?
        .error_for_status()?
        .json()
        .await?;
    let mut server = Server::builder();
    if let (Some(certificate), Some(key)) = (option("--certificate"), option("--private-key")) {
        let identity = Identity::from_pem(fs::read(certificate)?, fs::read(key)?);
        server = server.tls_config(ServerTlsConfig::new().identity(identity))?;
    }
    let service = Bare { client, upstream, access_token: token.access_token };
    server.add_service(OttServiceServer::new(service)).serve(listen).await?;
    Ok(())
}

fn failed(error: impl std::fmt::Display) -> Status {
    Status::unknown(error.to_string())
}

#[tonic::async_trait]
impl OttService for Bare {
    async fn issue_ott(
        &self,
        request: Request<IssueOttRequest>,
    ) -> Result<Response<IssueOttResponse>, Status> {
        let Some(Subject::Login(login)) = request.into_inner().subject else {
            return Err(Status::invalid_argument("name the user by login"));
        };
        let answer: Ott = self
            .client
            .post(format!("{}/api/2/idp/ott", self.upstream))
            .bearer_auth(&self.access_token)
            .json(&serde_json::json!({"purpose": "user_login", "login": login}))
            .send()
            .await
            .and_then(reqwest::Response::error_for_status)
            .map_err(failed)?
            .json()
            .await
            .map_err(failed)?;
        Ok(Response::new(IssueOttResponse { ott: answer.ott, ..IssueOttResponse::default() }))
    }

    async fn login_with_ott(
        &self,
        request: Request<LoginWithOttRequest>,
    ) -> Result<Response<LoginWithOttResponse>, Status> {
        let answer = self
            .client
            .post(format!("{}/api/2/idp/ott/login", self.upstream))
            .json(&serde_json::json!({"ott": request.into_inner().ott}))
            .send()
            .await
            .and_then(reqwest::Response::error_for_status)
            .map_err(failed)?;
        let cookies: Vec<Cookie> = answer
            .headers()
            .get_all(SET_COOKIE)
            .iter()
            .filter_map(|line| line.to_str().ok()?.split(';').next()?.split_once('='))
            .map(|(name, value)| Cookie {
                name: name.to_owned(),
                value: value.to_owned(),
                ..Cookie::default()
            })
            .collect();
        let pairs: Vec<String> =
            cookies.iter().map(|cookie| format!("{}={}", cookie.name, cookie.value)).collect();
        let account: Account = answer.json().await.map_err(failed)?;
        let contact = Contact {
            email: Some(account.contact.email),
            firstname: Some(account.contact.firstname),
            lastname: Some(account.contact.lastname),
            ..Contact::default()
        };
        let user = UserAccount {
            id: Some(account.id),
            login: Some(account.login),
            tenant_id: Some(account.tenant_id),
            enabled: Some(account.enabled),
            contact: Some(contact),
            ..UserAccount::default()
        };
        let session = Session { cookies, cookie_header: pairs.join("; ") };
        Ok(Response::new(LoginWithOttResponse { user: Some(user), session: Some(session) }))
    }
}
