//! Reads an accounts file.
//!
//! Every error contains the file, the line and the field. Only the fields that the sandbox needs are
//! checked; everything else in an account is returned unchanged.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Accounts, ApiClient, CLIENT_ID, CLIENT_SECRET, Tenant, User};

/// Error in an accounts file.
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
    /// A field is missing, or its value is not valid.
    #[error("{}:{line}: {field}: {problem}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The field, such as `users[2].login`.
        field: String,
        /// The problem with it.
        problem: Problem,
    },
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
    let source = Source { path, text };
    let top = Object::read(source, String::new(), whole)?;
    top.refuse_unknown(&["tenants", "api_clients", "users"])?;

    let tenants = top.objects("tenants")?;
    let api_clients = top.objects("api_clients")?;
    let users = top.objects("users")?;
    let Some(first) = tenants.first() else { return Err(top.fault("tenants", Problem::Empty)) };
    refuse_duplicates(&tenants, "id")?;
    refuse_duplicates(&api_clients, "client_id")?;
    for field in ["id", "login", "external_id"] {
        refuse_duplicates(&users, field)?;
    }

    let accounts = Accounts {
        api_clients: match api_clients.as_slice() {
            [] => vec![well_known_client(first)?],
            some => some.iter().map(api_client).collect::<Result<_, _>>()?,
        },
        users: users.iter().map(user).collect::<Result<_, _>>()?,
        tenants: tenants.iter().map(tenant).collect::<Result<_, _>>()?,
    };
    for object in &tenants {
        if let Some(parent) = object.text("parent_id")? {
            object.require_tenant(&accounts, "parent_id", &parent)?;
        }
    }
    tenants.iter().try_for_each(|object| refuse_cycle(&accounts, object))?;
    for object in api_clients.iter().chain(&users) {
        object.require_tenant(&accounts, "tenant_id", &object.required_text("tenant_id")?)?;
    }
    Ok(accounts)
}

fn tenant(object: &Object<'_>) -> Result<Arc<Tenant>, AccountsError> {
    object.refuse_unknown(&["id", "name", "parent_id", "kind", "enabled", "locked", "support_access"])?;
    Ok(Arc::new(Tenant {
        id: object.required_text("id")?,
        name: object.required_text("name")?,
        parent_id: object.text("parent_id")?,
        kind: object.text("kind")?.unwrap_or_else(|| "customer".to_owned()),
        enabled: object.flag("enabled")?.unwrap_or(true),
        locked: object.flag("locked")?.unwrap_or(false),
        support_access: object.flag("support_access")?.unwrap_or(true),
    }))
}

fn api_client(object: &Object<'_>) -> Result<Arc<ApiClient>, AccountsError> {
    object.refuse_unknown(&["client_id", "client_secret", "tenant_id", "name"])?;
    let id = object.required_text("client_id")?;
    Ok(Arc::new(ApiClient {
        secret: object.required_text("client_secret")?,
        tenant_id: object.required_text("tenant_id")?,
        name: object.text("name")?.unwrap_or_else(|| id.clone()),
        id,
    }))
}

/// Returns the default API client of a file without any.
fn well_known_client(tenant: &Object<'_>) -> Result<Arc<ApiClient>, AccountsError> {
    Ok(Arc::new(ApiClient {
        id: CLIENT_ID.to_owned(),
        secret: CLIENT_SECRET.to_owned(),
        tenant_id: tenant.required_text("id")?,
        name: "Sandbox".to_owned(),
    }))
}

fn user(object: &Object<'_>) -> Result<Arc<User>, AccountsError> {
    Ok(Arc::new(User {
        id: object.required_text("id")?,
        login: object.required_text("login")?,
        external_id: object.text("external_id")?,
        tenant_id: object.required_text("tenant_id")?,
        enabled: object.flag("enabled")?.unwrap_or(true),
        account: object.raw.to_owned(),
    }))
}

/// Refuses duplicate values of `field`.
fn refuse_duplicates(objects: &[Object<'_>], field: &'static str) -> Result<(), AccountsError> {
    let mut seen = BTreeSet::new();
    for object in objects {
        let Some(value) = object.text(field)? else { continue };
        // Login lookup ignores case.
        let key = if field == "login" { value.to_ascii_lowercase() } else { value.clone() };
        if !seen.insert(key) {
            return Err(object.fault(field, Problem::Twice(value)));
        }
    }
    Ok(())
}

/// Refuses a tenant that is below itself.
fn refuse_cycle(accounts: &Accounts, object: &Object<'_>) -> Result<(), AccountsError> {
    let own = object.required_text("id")?;
    let parent = |id: &String| accounts.tenant(id).and_then(|tenant| tenant.parent_id.clone());
    // Limited, because a cycle above this tenant would never end; a tenant in it reports it.
    let mut above = std::iter::successors(parent(&own), parent).take(accounts.tenants.len());
    if above.any(|id| id == own) { Err(object.fault("parent_id", Problem::Cycle)) } else { Ok(()) }
}

/// The file that is being read.
#[derive(Clone, Copy)]
struct Source<'a> {
    path: &'a Path,
    text: &'a str,
}

/// One JSON object of the file, and where it is.
struct Object<'a> {
    source: Source<'a>,
    name: String,
    raw: &'a RawValue,
    fields: BTreeMap<String, &'a RawValue>,
}

impl<'a> Object<'a> {
    fn read(source: Source<'a>, name: String, raw: &'a RawValue) -> Result<Self, AccountsError> {
        let mut object = Self { source, name, raw, fields: BTreeMap::new() };
        object.fields = serde_json::from_str(raw.get())
            .map_err(|_| object.fault_at(raw, object.name.clone(), Problem::Type("an object")))?;
        Ok(object)
    }

    /// Returns the objects of the array `field`; empty if absent.
    fn objects(&self, field: &str) -> Result<Vec<Self>, AccountsError> {
        let entries: Vec<&RawValue> = self.value(field, "an array of objects")?.unwrap_or_default();
        let named = entries.into_iter().enumerate();
        named.map(|(index, raw)| Self::read(self.source, format!("{field}[{index}]"), raw)).collect()
    }

    fn required_text(&self, field: &'static str) -> Result<String, AccountsError> {
        self.text(field)?.ok_or_else(|| self.fault(field, Problem::Missing))
    }

    /// Returns a non-empty text; `None` if absent or null.
    fn text(&self, field: &'static str) -> Result<Option<String>, AccountsError> {
        let text: Option<String> = self.value(field, "text")?;
        if text.as_ref().is_some_and(String::is_empty) {
            return Err(self.fault(field, Problem::Empty));
        }
        Ok(text)
    }

    fn flag(&self, field: &'static str) -> Result<Option<bool>, AccountsError> {
        self.value(field, "true or false")
    }

    fn value<T: Deserialize<'a>>(&self, field: &str, what: &'static str) -> Result<Option<T>, AccountsError> {
        let Some(raw) = self.fields.get(field) else { return Ok(None) };
        serde_json::from_str(raw.get()).map_err(|_| self.fault(field, Problem::Type(what)))
    }

    fn refuse_unknown(&self, known: &'static [&'static str]) -> Result<(), AccountsError> {
        let Some(field) = self.fields.keys().find(|field| !known.contains(&field.as_str())) else {
            return Ok(());
        };
        let likeness = |name: &&&'static str| strsim::jaro_winkler(name, field);
        let nearest = known
            .iter()
            .filter(|name| likeness(name) > 0.8)
            .max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
            .copied();
        Err(self.fault(field, Problem::Unknown { nearest, known }))
    }

    fn require_tenant(&self, accounts: &Accounts, field: &str, id: &str) -> Result<(), AccountsError> {
        match accounts.tenant(id) {
            Some(_) => Ok(()),
            None => Err(self.fault(field, Problem::NoSuchTenant(id.to_owned()))),
        }
    }

    /// Returns an error in a field, with the line of its value, or of the object if it is absent.
    fn fault(&self, field: &str, problem: Problem) -> AccountsError {
        let name = if self.name.is_empty() { field.to_owned() } else { format!("{}.{field}", self.name) };
        self.fault_at(self.fields.get(field).copied().unwrap_or(self.raw), name, problem)
    }

    fn fault_at(&self, raw: &RawValue, name: String, problem: Problem) -> AccountsError {
        // `raw` borrows from the text, so its address is its position in it.
        let offset = raw.get().as_ptr().addr() - self.source.text.as_ptr().addr();
        let line = 1 + self.source.text.bytes().take(offset).filter(|byte| *byte == b'\n').count();
        let field = if name.is_empty() { "the file".to_owned() } else { name };
        AccountsError::Field { path: self.source.path.to_owned(), line, field, problem }
    }
}
