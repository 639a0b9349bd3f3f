//! Reads an accounts file.
//!
//! Every error contains the file, the line and the field, and all are reported at once. Only the
//! fields that the sandbox needs are checked; everything else in an account is returned unchanged.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Accounts, ApiClient, CLIENT_ID, CLIENT_SECRET, Tenant, User};

/// Error of an accounts file.
#[derive(Debug, thiserror::Error)]
pub enum AccountsError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Error of the system.
        source: std::io::Error,
    },
    /// The file is not JSON.
    #[error("{}:{line}: not valid JSON: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// Error of the parser.
        message: String,
    },
    /// Fields are missing, or their values are not valid. In the order of the file.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Fields(Vec<InvalidField>),
}

/// A field that is missing, or whose value is not valid.
#[derive(Debug, PartialEq, Eq)]
pub struct InvalidField {
    /// The file.
    pub path: PathBuf,
    /// The line, from 1.
    pub line: usize,
    /// The field, such as `users[2].login`. Entries are counted from 1, like access rules.
    pub field: String,
    /// The problem with it.
    pub problem: Problem,
}

impl fmt::Display for InvalidField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.path.display(), self.line, self.field, self.problem)
    }
}

/// Problem with a field.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Problem {
    /// A required field is absent.
    #[error("is missing")]
    Missing,
    /// The value has another type than this one.
    #[error("must be {0}")]
    Type(&'static str),
    /// It is not one of the fields that exist.
    #[error(
        "is not known{}; the known ones are {}",
        nearest.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default(),
        known.join(", ")
    )]
    Unknown {
        /// The most similar known field, if one is similar enough.
        nearest: Option<&'static str>,
        /// All known fields.
        known: &'static [&'static str],
    },
    /// Another entry has the same value.
    #[error("\"{0}\" is used twice")]
    Twice(String),
    /// It refers to a tenant that is not in the file.
    #[error("no tenant has the id \"{0}\"")]
    NoSuchTenant(String),
    /// Its parents form a cycle.
    #[error("the tenant is its own ancestor")]
    Cycle,
    /// It is empty.
    #[error("must not be empty")]
    Empty,
}

/// Reads and checks the file at `path`.
pub(super) fn read(path: &Path) -> Result<Accounts, AccountsError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| AccountsError::Unreadable { path: path.to_owned(), source })?;
    parse(path, &text)
}

/// Parses and checks the text of a file; `path` is only for error messages.
pub(in crate::sandbox) fn parse(path: &Path, text: &str) -> Result<Accounts, AccountsError> {
    let whole: &RawValue = serde_json::from_str(text).map_err(|error| AccountsError::Syntax {
        path: path.to_owned(),
        line: error.line(),
        message: error.to_string(),
    })?;
    let errors = RefCell::default();
    let read = accounts(Source { path, text, errors: &errors }, whole);
    let mut errors = errors.into_inner();
    errors.sort_by_key(|error: &InvalidField| error.line);
    match read {
        Some(accounts) if errors.is_empty() => Ok(accounts),
        _ => Err(AccountsError::Fields(errors)),
    }
}

/// Returns the accounts; `None` if there is an error that prevents reading them.
fn accounts(source: Source<'_>, whole: &RawValue) -> Option<Accounts> {
    let top = Object::read(source, String::new(), whole)?;
    top.refuse_unknown(&["tenants", "api_clients", "users"]);
    let (tenants, api_clients, users) =
        (top.objects("tenants"), top.objects("api_clients"), top.objects("users"));
    let is_empty = |raw: &&RawValue| raw.get().trim_matches(['[', ']']).trim().is_empty();
    if top.fields.get("tenants").is_none_or(is_empty) {
        top.fault("tenants", Problem::Empty);
    }
    refuse_duplicates(&tenants, "id");
    refuse_duplicates(&api_clients, "client_id");
    for field in ["id", "login", "external_id"] {
        refuse_duplicates(&users, field);
    }
    let parents: BTreeMap<String, Option<String>> =
        tenants.iter().filter_map(|object| Some((object.text("id")?, object.text("parent_id")))).collect();
    for object in &tenants {
        object.require_tenant(&parents, "parent_id");
        refuse_cycle(&parents, object);
    }
    for object in api_clients.iter().chain(&users) {
        object.require_tenant(&parents, "tenant_id");
    }

    // Every object is read, so that all errors are reported.
    let api_clients: Vec<_> = match api_clients.as_slice() {
        [] => vec![tenants.first().and_then(well_known_client)],
        some => some.iter().map(api_client).collect(),
    };
    let users: Vec<_> = users.iter().map(user).collect();
    let tenants: Vec<_> = tenants.iter().map(tenant).collect();
    Some(Accounts {
        tenants: tenants.into_iter().collect::<Option<_>>()?,
        users: users.into_iter().collect::<Option<_>>()?,
        api_clients: api_clients.into_iter().collect::<Option<_>>()?,
    })
}

fn tenant(object: &Object<'_>) -> Option<Arc<Tenant>> {
    object.refuse_unknown(&["id", "name", "parent_id", "kind", "enabled", "locked", "support_access"]);
    let (id, name) = (object.required_text("id"), object.required_text("name"));
    let parent_id = object.text("parent_id");
    let kind = object.text("kind").unwrap_or_else(|| "customer".to_owned());
    let enabled = object.flag("enabled").unwrap_or(true);
    let locked = object.flag("locked").unwrap_or(false);
    let support_access = object.flag("support_access").unwrap_or(true);
    Some(Arc::new(Tenant { id: id?, name: name?, parent_id, kind, enabled, locked, support_access }))
}

fn api_client(object: &Object<'_>) -> Option<Arc<ApiClient>> {
    object.refuse_unknown(&["client_id", "client_secret", "tenant_id", "name"]);
    let (id, secret) = (object.required_text("client_id"), object.required_text("client_secret"));
    let (tenant_id, name) = (object.required_text("tenant_id"), object.text("name"));
    let id = id?;
    Some(Arc::new(ApiClient {
        secret: secret?,
        tenant_id: tenant_id?,
        name: name.unwrap_or_else(|| id.clone()),
        id,
    }))
}

/// Returns the default API client of a file without any.
fn well_known_client(tenant: &Object<'_>) -> Option<Arc<ApiClient>> {
    Some(Arc::new(ApiClient {
        id: CLIENT_ID.to_owned(),
        secret: CLIENT_SECRET.to_owned(),
        tenant_id: tenant.required_text("id")?,
        name: "Sandbox".to_owned(),
    }))
}

fn user(object: &Object<'_>) -> Option<Arc<User>> {
    let (id, login) = (object.required_text("id"), object.required_text("login"));
    let (external_id, tenant_id) = (object.text("external_id"), object.required_text("tenant_id"));
    let enabled = object.flag("enabled").unwrap_or(true);
    Some(Arc::new(User {
        id: id?,
        login: login?,
        external_id,
        tenant_id: tenant_id?,
        enabled,
        account: object.raw.to_owned(),
    }))
}

/// Refuses duplicate values of `field`.
fn refuse_duplicates(objects: &[Object<'_>], field: &'static str) {
    let mut seen = BTreeSet::new();
    for object in objects {
        let Some(value) = object.text(field) else { continue };
        // Login lookup ignores case.
        let key = if field == "login" { value.to_ascii_lowercase() } else { value.clone() };
        if !seen.insert(key) {
            object.fault(field, Problem::Twice(value));
        }
    }
}

/// Refuses a tenant that is below itself. `parents` contains the parent of each tenant.
fn refuse_cycle(parents: &BTreeMap<String, Option<String>>, object: &Object<'_>) {
    let Some(own) = object.text("id") else { return };
    let parent = |id: &String| parents.get(id).cloned().flatten();
    // Limited, because a cycle above this tenant would never end; a tenant in it reports it.
    let mut above = std::iter::successors(parent(&own), parent).take(parents.len());
    if above.any(|id| id == own) {
        object.fault("parent_id", Problem::Cycle);
    }
}

/// The file that is being read.
#[derive(Clone, Copy)]
struct Source<'a> {
    path: &'a Path,
    text: &'a str,
    errors: &'a RefCell<Vec<InvalidField>>,
}

/// One JSON object of the file, and where it is. Its methods report invalid values, and return
/// `None` for them.
struct Object<'a> {
    source: Source<'a>,
    name: String,
    raw: &'a RawValue,
    fields: BTreeMap<String, &'a RawValue>,
}

impl<'a> Object<'a> {
    fn read(source: Source<'a>, name: String, raw: &'a RawValue) -> Option<Self> {
        let mut object = Self { source, name, raw, fields: BTreeMap::new() };
        let fields = serde_json::from_str(raw.get());
        if fields.is_err() {
            object.fault_at(raw, object.name.clone(), Problem::Type("an object"));
        }
        object.fields = fields.ok()?;
        Some(object)
    }

    /// Returns the objects of the array `field`.
    fn objects(&self, field: &str) -> Vec<Self> {
        let entries: Vec<&RawValue> = self.value(field, "an array of objects").unwrap_or_default();
        (1_usize..)
            .zip(entries)
            .filter_map(|(number, raw)| Self::read(self.source, format!("{field}[{number}]"), raw))
            .collect()
    }

    fn required_text(&self, field: &'static str) -> Option<String> {
        let is_absent = self.fields.get(field).is_none_or(|raw| raw.get() == "null");
        if is_absent {
            self.fault(field, Problem::Missing);
        }
        self.text(field)
    }

    /// Returns a non-empty text; `None` if absent or null.
    fn text(&self, field: &'static str) -> Option<String> {
        let text: Option<String> = self.value(field, "text")?;
        if text.as_ref().is_some_and(String::is_empty) {
            self.fault(field, Problem::Empty);
            return None;
        }
        text
    }

    fn flag(&self, field: &'static str) -> Option<bool> {
        self.value::<Option<bool>>(field, "true or false")?
    }

    fn value<T: Deserialize<'a>>(&self, field: &str, what: &'static str) -> Option<T> {
        let raw = self.fields.get(field)?;
        let value = serde_json::from_str(raw.get());
        value.map_err(|_| self.fault(field, Problem::Type(what))).ok()
    }

    fn refuse_unknown(&self, known: &'static [&'static str]) {
        for field in self.fields.keys().filter(|field| !known.contains(&field.as_str())) {
            let likeness = |name: &&&'static str| strsim::jaro_winkler(name, field);
            let nearest = known
                .iter()
                .filter(|name| likeness(name) > 0.8)
                .max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
                .copied();
            self.fault(field, Problem::Unknown { nearest, known });
        }
    }

    fn require_tenant(&self, tenants: &BTreeMap<String, Option<String>>, field: &'static str) {
        if let Some(id) = self.text(field).filter(|id| !tenants.contains_key(id)) {
            self.fault(field, Problem::NoSuchTenant(id));
        }
    }

    /// Reports an error in a field, with the line of its value, or of the object if it is absent.
    fn fault(&self, field: &str, problem: Problem) {
        let name = if self.name.is_empty() { field.to_owned() } else { format!("{}.{field}", self.name) };
        self.fault_at(self.fields.get(field).copied().unwrap_or(self.raw), name, problem);
    }

    fn fault_at(&self, raw: &RawValue, name: String, problem: Problem) {
        // `raw` borrows from the text, so its address is its position in it.
        let offset = raw.get().as_ptr().addr() - self.source.text.as_ptr().addr();
        let line = 1 + self.source.text.bytes().take(offset).filter(|byte| *byte == b'\n').count();
        let field = if name.is_empty() { "the file".to_owned() } else { name };
        let error = InvalidField { path: self.source.path.to_owned(), line, field, problem };
        let mut errors = self.source.errors.borrow_mut();
        // A field is read several times.
        if !errors.contains(&error) {
            errors.push(error);
        }
    }
}
