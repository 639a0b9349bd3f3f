//! The endpoints for a single user, tenant or API client; those for many are in `directory`.
//!
//! Read-only, and only what clients of the login endpoints need. Fields without a value in the
//! sandbox are left out.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::World;
use super::accounts::{Subject, Tenant};
use super::error::ApiError;
use super::idp;
use super::log::LoggedUser;

/// `GET /api/2/users/me`: the user of the session.
///
/// With an access token, the API client: the fields that the vendor's first Python samples use.
pub(super) async fn me(State(world): State<Arc<World>>, headers: HeaderMap) -> Result<Response, ApiError> {
    if headers.contains_key(header::AUTHORIZATION) {
        let client = world.api_client(&headers)?;
        let answer = json!({ "enabled": true, "id": client.id, "tenant_id": client.tenant_id });
        return Ok(Json(answer).into_response());
    }
    let user = world.logged_in(&headers).ok_or_else(ApiError::session)?;
    let mut response = idp::account(&user);
    response.extensions_mut().insert(LoggedUser(user));
    Ok(response)
}

/// `GET /api/2/users/{id}`: a user of the API client's tenants.
pub(super) async fn user(
    State(world): State<Arc<World>>,
    headers: HeaderMap,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let client = world.api_client(&headers)?;
    let user = id.ok().and_then(|Path(id)| world.accounts.user(&Subject::UserId(id)));
    let user = user.ok_or_else(|| ApiError::no_such("user"))?;
    let seen = world.accounts.may_see(&client, &user.tenant_id);
    seen.map_err(|inaccessible| ApiError::inaccessible(&inaccessible, &user.id))?;
    Ok(idp::account(user))
}

/// `GET /api/2/tenants/{id}`: a tenant at or below the API client's own.
pub(super) async fn tenant(
    State(world): State<Arc<World>>,
    headers: HeaderMap,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Value>, ApiError> {
    let client = world.api_client(&headers)?;
    let tenant = id.ok().and_then(|Path(id)| world.accounts.tenant(&id));
    let tenant = tenant.ok_or_else(|| ApiError::no_such("tenant"))?;
    let seen = world.accounts.may_see(&client, &tenant.id);
    seen.map_err(|inaccessible| ApiError::inaccessible(&inaccessible, &tenant.id))?;
    Ok(Json(tenant_object(tenant)))
}

/// Returns the platform's representation of a tenant.
pub(super) fn tenant_object(tenant: &Tenant) -> Value {
    json!({
        // The API's name for support access.
        "ancestral_access": tenant.support_access,
        "enabled": tenant.enabled,
        "id": tenant.id,
        "kind": tenant.kind,
        "name": tenant.name,
        "parent_id": tenant.parent_id,
        "update_lock": { "enabled": tenant.locked },
        "version": 1,
    })
}

/// `GET /api/2/clients/{id}`: an API client at or below the tenant of the requesting one.
pub(super) async fn client(
    State(world): State<Arc<World>>,
    headers: HeaderMap,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Value>, ApiError> {
    let asking = world.api_client(&headers)?;
    let client = id.ok().and_then(|Path(id)| world.accounts.api_client(&id));
    let client = client.ok_or_else(|| ApiError::no_such("API client"))?;
    let seen = world.accounts.may_see(&asking, &client.tenant_id);
    seen.map_err(|inaccessible| ApiError::inaccessible(&inaccessible, &client.id))?;
    Ok(Json(json!({
        "client_id": client.id,
        "data": { "client_name": client.name },
        "redirect_uris": [],
        "status": "enabled",
        "tenant_id": client.tenant_id,
        "token_endpoint_auth_method": "client_secret_basic",
        "type": "api_client",
    })))
}

/// `GET /.well-known/openid-configuration`: the vendor's Go library discovers the token endpoint
/// here.
pub(super) async fn openid_configuration(State(world): State<Arc<World>>, headers: HeaderMap) -> Json<Value> {
    let base = base_url(&world, &headers);
    Json(json!({
        "grant_types_supported": ["client_credentials"],
        "issuer": base,
        "token_endpoint": format!("{base}/api/2/idp/token"),
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
    }))
}

/// `GET /api/1/accounts`: the data center of a login. There is only one.
pub(super) async fn data_center(State(world): State<Arc<World>>, headers: HeaderMap) -> Json<Value> {
    Json(json!({ "server_url": base_url(&world, &headers) }))
}

/// Returns the sandbox's URL from the `Host` header, which also works through a forwarded port.
fn base_url(world: &World, headers: &HeaderMap) -> String {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    match host.and_then(|host| host.parse::<Authority>().ok()) {
        Some(host) if !host.as_str().contains('@') => format!("http://{host}"),
        _ => world.public_url.clone(),
    }
}
