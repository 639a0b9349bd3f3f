//! The endpoints that list and search tenants and users.
//!
//! Read-only, for clients that look a user up before they log it in. Single users, tenants and API
//! clients are in `api`.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::World;
use super::accounts::{ApiClient, Subject, Tenant, User};
use super::api::tenant_object;
use super::error::ApiError;

/// Default maximum number of items in a response.
const LIMIT: usize = 1000;

/// The object around every list of the platform.
#[derive(Serialize)]
pub(super) struct Items<T> {
    items: Vec<T>,
}

/// `GET /api/2/tenants/{id}/children`: the ids of the direct children of a tenant.
pub(super) async fn children(
    State(world): State<Arc<World>>,
    headers: HeaderMap,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Items<String>>, ApiError> {
    let client = world.api_client(&headers)?;
    let parent = seen_tenant(&world, &client, id.ok().map(|Path(id)| id))?;
    let children = world.accounts.tenants().filter(|tenant| tenant.parent_id.as_ref() == Some(&parent.id));
    Ok(Json(Items { items: children.map(|tenant| tenant.id.clone()).collect() }))
}

/// `GET /api/2/tenants/{id}/users`: the ids of the users in a tenant.
pub(super) async fn tenant_users(
    State(world): State<Arc<World>>,
    headers: HeaderMap,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Items<String>>, ApiError> {
    let client = world.api_client(&headers)?;
    let tenant = seen_tenant(&world, &client, id.ok().map(|Path(id)| id))?;
    let users = world.accounts.users().filter(|user| user.tenant_id == tenant.id);
    Ok(Json(Items { items: users.map(|user| user.id.clone()).collect() }))
}

/// `GET /api/2/tenants`: by `uuids`, by `parent_id`, or at and below `subtree_root_id`.
pub(super) async fn tenants(
    State(world): State<Arc<World>>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Json<Items<Value>>, ApiError> {
    let client = world.api_client(&headers)?;
    let query = Query(query.unwrap_or_default());
    let limit = query.limit()?;
    let uuids = query.list("uuids");
    let parent = query.value("parent_id");
    let root = match (&uuids, &parent) {
        (None, None) => query.value("subtree_root_id").ok_or_else(|| {
            ApiError::field("uuids", "One of uuids, parent_id and subtree_root_id is required.")
        })?,
        _ => client.tenant_id.clone(),
    };
    seen_tenant(&world, &client, Some(parent.clone().unwrap_or_else(|| root.clone())))?;
    let items = world
        .accounts
        .tenants()
        .filter(|tenant| uuids.as_ref().is_none_or(|uuids| uuids.contains(&tenant.id)))
        .filter(|tenant| parent.is_none() || tenant.parent_id == parent)
        .filter(|tenant| world.accounts.way(&root, &tenant.id).is_some())
        .map(|tenant| tenant_object(tenant));
    Ok(Json(Items { items: items.take(limit).collect() }))
}

/// `GET /api/2/users`: by `uuids`, by `tenant_id`, or at and below
/// `subtree_root_tenant_id`.
pub(super) async fn users(
    State(world): State<Arc<World>>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Json<Items<Box<RawValue>>>, ApiError> {
    let client = world.api_client(&headers)?;
    let query = Query(query.unwrap_or_default());
    let limit = query.limit()?;
    let uuids = query.list("uuids");
    let own = query.value("tenant_id");
    let root = match (&uuids, &own) {
        (None, None) => query.value("subtree_root_tenant_id").ok_or_else(|| {
            ApiError::field("uuids", "One of uuids, tenant_id and subtree_root_tenant_id is required.")
        })?,
        _ => client.tenant_id.clone(),
    };
    seen_tenant(&world, &client, Some(own.clone().unwrap_or_else(|| root.clone())))?;
    let items = world
        .accounts
        .users()
        .filter(|user| uuids.as_ref().is_none_or(|uuids| uuids.contains(&user.id)))
        .filter(|user| own.as_ref().is_none_or(|tenant_id| user.tenant_id == *tenant_id))
        .filter(|user| world.accounts.way(&root, &user.tenant_id).is_some())
        .map(|user| user.account.clone());
    Ok(Json(Items { items: items.take(limit).collect() }))
}

/// `GET /api/2/users/check_login`: 204 if nobody has the login `username`, else 409.
pub(super) async fn check_login(
    State(world): State<Arc<World>>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<StatusCode, ApiError> {
    world.api_client(&headers)?;
    let login = Query(query.unwrap_or_default()).required("username")?;
    match world.accounts.user(&Subject::Login(login)) {
        None => Ok(StatusCode::NO_CONTENT),
        Some(_) => Err(ApiError::plain(StatusCode::CONFLICT, "A user with this login exists.")),
    }
}

/// `GET /api/2/search`: the tenants and users at and below `tenant` whose name or
/// login contains `text`, ignoring case.
pub(super) async fn search(
    State(world): State<Arc<World>>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Json<Items<Value>>, ApiError> {
    let client = world.api_client(&headers)?;
    let query = Query(query.unwrap_or_default());
    let limit = query.limit()?;
    let text = query.required("text")?.to_lowercase();
    let root = query.required("tenant")?;
    seen_tenant(&world, &client, Some(root.clone()))?;
    let matches = |texts: &[&str]| texts.iter().any(|candidate| candidate.to_lowercase().contains(&text));
    let path = |tenant_id: &str| {
        let way = world.accounts.way(&root, tenant_id)?;
        Some(way.iter().map(|tenant| tenant.name.clone()).collect::<Vec<_>>())
    };
    let tenants = world.accounts.tenants().filter(|tenant| matches(&[&tenant.name])).filter_map(|tenant| {
        Some(json!({
            "first_name": "",
            "id": tenant.id,
            "kind": tenant.kind,
            "last_name": "",
            "name": tenant.name,
            "obj_type": "tenant",
            "parent_id": tenant.parent_id,
            "path": path(&tenant.id)?,
        }))
    });
    let users = world.accounts.users().filter_map(|user| {
        let (first_name, last_name) = name_of(user);
        if !matches(&[&user.login, &first_name, &last_name]) {
            return None;
        }
        Some(json!({
            "first_name": first_name,
            "id": user.id,
            "last_name": last_name,
            "login": user.login,
            "obj_type": "user",
            "parent_id": user.tenant_id,
            "path": path(&user.tenant_id)?,
        }))
    });
    Ok(Json(Items { items: tenants.chain(users).take(limit).collect() }))
}

/// Returns a tenant that the client can see.
fn seen_tenant(world: &World, client: &ApiClient, id: Option<String>) -> Result<Arc<Tenant>, ApiError> {
    let tenant = id.and_then(|id| world.accounts.tenant(&id)).ok_or_else(|| ApiError::no_such("tenant"))?;
    let seen = world.accounts.may_see(client, &tenant.id);
    seen.map_err(|inaccessible| ApiError::inaccessible(&inaccessible, &tenant.id))?;
    Ok(Arc::clone(tenant))
}

fn name_of(user: &User) -> (String, String) {
    let account: Value = serde_json::from_str(user.account.get()).unwrap_or_default();
    let text = |pointer| account.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    (text("/contact/firstname"), text("/contact/lastname"))
}

/// The query of a request.
struct Query(String);

impl Query {
    fn value(&self, name: &str) -> Option<String> {
        let mut pairs = url::form_urlencoded::parse(self.0.as_bytes());
        pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }

    fn required(&self, name: &'static str) -> Result<String, ApiError> {
        let value = self.value(name).filter(|value| !value.is_empty());
        value.ok_or_else(|| ApiError::field(name, format!("{name} is required.")))
    }

    /// Returns the comma-separated values of a parameter.
    fn list(&self, name: &str) -> Option<Vec<String>> {
        Some(self.value(name)?.split(',').map(|value| value.trim().to_owned()).collect())
    }

    fn limit(&self) -> Result<usize, ApiError> {
        let Some(limit) = self.value("limit") else { return Ok(LIMIT) };
        match limit.parse() {
            Ok(limit) if (1..=LIMIT).contains(&limit) => Ok(limit),
            _ => Err(ApiError::field("limit", format!("limit must be 1 to {LIMIT}."))),
        }
    }
}
