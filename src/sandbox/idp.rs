//! Endpoints that issue and spend tokens: `/api/2/idp/…`.
//!
//! Users are in `accounts`, issued tokens in `tokens`, other endpoints in `api`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::World;
use super::accounts::{ApiClient, Subject, User};
use super::body;
use super::error::ApiError;
use super::fault_injector;
use super::fault_request::{FaultRequest, Kind};
use super::faults::Fault;
use super::log::{LoggedApiClient, LoggedToken, LoggedUser};
use super::tokens::{Login, SessionName, fingerprint, unpadded};
use crate::base::clock::unix_seconds;

/// The two cookies of a session.
const SESSION_ID: &str = "sandbox_session_id";
const SESSION_KEY: &str = "sandbox_session_key";

/// `POST /api/2/idp/token`: an access token for an API client.
pub(super) async fn token(State(world): State<Arc<World>>, headers: HeaderMap, body: Bytes) -> Response {
    let basic = basic_credentials(&headers);
    let form = match body::form(&headers, &body) {
        Ok(form) => form,
        Err(error) => return error.into_response(),
    };
    let field = |name: &str| form.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    // RFC 6749, section 2.3.1: in the header, or both in the form.
    let credentials = basic.or_else(|| field("client_id").zip(field("client_secret")));
    let client = credentials
        .and_then(|(id, secret)| world.accounts.api_client(&id).filter(|client| client.secret == secret));
    let Some(client) = client else {
        let mut response = oauth_error(
            StatusCode::UNAUTHORIZED,
            "invalid_client",
            "The API client is unknown, or its secret is wrong.",
        );
        let challenge = HeaderValue::from_static("Basic realm=\"sandbox\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        return response;
    };
    match field("grant_type").as_deref() {
        Some("client_credentials") => access_token(&world, client),
        Some(_) => oauth_error(
            StatusCode::BAD_REQUEST,
            "unsupported_grant_type",
            "The sandbox supports only grant_type=client_credentials.",
        ),
        None => oauth_error(StatusCode::BAD_REQUEST, "invalid_request", "grant_type is missing."),
    }
}

fn access_token(world: &World, client: &Arc<ApiClient>) -> Response {
    let lifetime = world.access_token_lifetime;
    let answer = json!({
        "access_token": world.tokens.new_access_token(client),
        // Not documented, but the vendor's Go library reads it.
        "expires_in": lifetime.as_secs(),
        "expires_on": unix_seconds(world.wall_clock.now() + lifetime),
        "id_token": unpadded(),
        "token_type": "bearer",
    });
    let mut response = Json(answer).into_response();
    response.extensions_mut().insert(LoggedApiClient(Arc::clone(client)));
    response
}

fn oauth_error(status: StatusCode, error: &str, description: &str) -> Response {
    (status, Json(json!({ "error": error, "error_description": description }))).into_response()
}

/// `POST /api/2/idp/ott`: a one-time token for a user of the API client.
pub(super) async fn ott(
    State(world): State<Arc<World>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let client = world.api_client(&headers)?;
    let fields = body::json_object(&headers, &body)?;
    match text(&fields, "purpose")? {
        Some("user_login") => {}
        Some(_) => return Err(ApiError::field("purpose", "The only purpose is \"user_login\".")),
        None => return Err(ApiError::field("purpose", "purpose is required.")),
    }
    let subject = subject(&fields)?;
    let demand = match &subject {
        Subject::Login(login) => FaultRequest::of(login, &world.accounts),
        Subject::ExternalId(_) | Subject::UserId(_) => None,
    };
    let demand = demand.transpose().map_err(|unknown| {
        fault_injector::warn(unknown);
        ApiError::field("login", unknown.rules().join("; "))
    })?;

    let user = match (&demand, subject) {
        (Some(_), Subject::Login(login)) => {
            let user = User::for_fault(&login.to_ascii_lowercase(), &client.tenant_id);
            Arc::new(user.ok_or_else(|| ApiError::no_such("user"))?)
        }
        (_, subject) => {
            let user = world.accounts.user(&subject).ok_or_else(|| ApiError::no_such("user"))?;
            world
                .accounts
                .may_log_in_as(&client, user)
                .map_err(|inaccessible| ApiError::inaccessible(&inaccessible, &user.id))?;
            Arc::clone(user)
        }
    };
    let issue = |failure| {
        let login = Login { user: Arc::clone(&user), failure };
        let token = world.tokens.new_one_time_token(login);
        let mut response = Json(json!({ "ott": token })).into_response();
        response.extensions_mut().insert(fingerprint(&token).map(LoggedToken));
        response
    };
    let mut response = match demand {
        Some(FaultRequest::Issue(Kind::Platform(fault))) => fault.refusal().unwrap_or_else(|| {
            let mut response = issue(None);
            response.extensions_mut().insert(fault);
            response
        }),
        Some(FaultRequest::Issue(Kind::Gateway(reason, _))) => {
            let info = format!("The gateway injects {}: send the request to the gateway.", reason.as_str());
            return Err(ApiError::field("login", info));
        }
        Some(FaultRequest::Login(failure)) => issue(Some(failure)),
        None => issue(None),
    };
    response.extensions_mut().insert(LoggedUser(user));
    Ok(response)
}

/// Returns the subject from exactly one of the three fields.
fn subject(fields: &Map<String, Value>) -> Result<Subject, ApiError> {
    let subjects = (text(fields, "login")?, text(fields, "external_id")?, text(fields, "user_id")?);
    match subjects {
        (Some(login), None, None) => Ok(Subject::Login(login.to_owned())),
        (None, Some(id), None) => Ok(Subject::ExternalId(id.to_owned())),
        (None, None, Some(id)) => Ok(Subject::UserId(id.to_owned())),
        _ => Err(ApiError::field("login", "Exactly one of login, external_id and user_id is required.")),
    }
}

/// Returns the text of a field; `None` if absent or null.
fn text<'a>(fields: &'a Map<String, Value>, name: &'static str) -> Result<Option<&'a str>, ApiError> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(ApiError::field(name, format!("{name} must be text."))),
    }
}

/// `POST /api/2/idp/ott/login`: a session for a one-time token.
///
/// Ignores `Authorization`, which the vendor's Python sample sends.
pub(super) async fn ott_login(
    State(world): State<Arc<World>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let fields = body::json_object(&headers, &body)?;
    let Some(token) = text(&fields, "ott")? else {
        return Err(ApiError::field("ott", "ott is required."));
    };
    let mut response = spend(&world, token).into_response();
    response.extensions_mut().insert(fingerprint(token).map(LoggedToken));
    Ok(response)
}

fn spend(world: &World, token: &str) -> Result<Response, ApiError> {
    // A refusal does not spend the token.
    if let Some(Login { user, failure: Some(Kind::Platform(fault)) }) = world.tokens.login(token)
        && let Some(mut refusal) = fault.refusal()
    {
        refusal.extensions_mut().insert(LoggedUser(user));
        return Ok(refusal);
    }
    let Some(login) = world.tokens.spend(token) else {
        let info = "The one-time token is unknown, has been used or has expired.";
        return Err(ApiError::plain(StatusCode::UNAUTHORIZED, info));
    };
    let session = world.tokens.new_session(&login.user);
    let mut response = account(&login.user);
    set_cookies(response.headers_mut(), &session, "");
    if let Some(Kind::Platform(fault)) = login.failure {
        response.extensions_mut().insert::<Fault>(fault);
    }
    response.extensions_mut().insert(LoggedUser(login.user));
    Ok(response)
}

/// `GET /api/2/idp/logout`: ends the session of the cookies.
pub(super) async fn logout(
    State(world): State<Arc<World>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let name = session_name(&headers).ok_or_else(ApiError::session)?;
    let user = world.tokens.user_of(&name).ok_or_else(ApiError::session)?;
    world.tokens.end_session(&name);
    let mut response = StatusCode::NO_CONTENT.into_response();
    let deleted = SessionName { id: String::new(), key: String::new() };
    set_cookies(response.headers_mut(), &deleted, "; Max-Age=0");
    response.extensions_mut().insert(LoggedUser(user));
    Ok(response)
}

/// Returns the account object, verbatim.
pub(super) fn account(user: &User) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], user.account.get().to_owned()).into_response()
}

/// Returns the session of the cookies of a request, if any.
pub(super) fn session_name(headers: &HeaderMap) -> Option<SessionName> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs: Vec<_> =
        cookies.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('=')).collect();
    let value = |name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
    Some(SessionName { id: value(SESSION_ID)?, key: value(SESSION_KEY)? })
}

fn set_cookies(headers: &mut HeaderMap, session: &SessionName, attributes: &str) {
    for (name, value) in [(SESSION_ID, &session.id), (SESSION_KEY, &session.key)] {
        let cookie = format!("{name}={value}; Path=/; HttpOnly; SameSite=Lax{attributes}");
        // Tokens are base64, which is valid in a header.
        if let Ok(mut cookie) = HeaderValue::try_from(cookie) {
            cookie.set_sensitive(true);
            headers.append(header::SET_COOKIE, cookie);
        }
    }
}

/// Returns the credentials after the scheme in `Authorization`.
pub(super) fn authorization<'a>(headers: &'a HeaderMap, scheme: &str) -> Option<&'a str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (name, credentials) = value.split_once(' ')?;
    name.eq_ignore_ascii_case(scheme).then(|| credentials.trim())
}

fn basic_credentials(headers: &HeaderMap) -> Option<(String, String)> {
    let decoded = STANDARD.decode(authorization(headers, "Basic")?).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    text.split_once(':').map(|(id, secret)| (id.to_owned(), secret.to_owned()))
}
