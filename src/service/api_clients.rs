//! The configured API clients, by name.

use std::{collections::HashMap, sync::Arc};

use crate::platform::ApiClient;

/// The API clients of one worker. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ApiClients(Arc<ByName>);

#[derive(Debug)]
struct ByName {
    clients: HashMap<Arc<str>, ApiClient>,
    default: Option<Arc<str>>,
}

impl ApiClients {
    /// Creates the set. `default` is the name of the client for requests without `api_client`.
    #[must_use]
    pub fn new(clients: Vec<ApiClient>, default: Option<Arc<str>>) -> Self {
        let clients = clients.into_iter().map(|client| (Arc::clone(client.name()), client)).collect();
        Self(Arc::new(ByName { clients, default }))
    }

    /// Returns the API client `name`; without a name, the default one.
    #[must_use]
    pub fn named(&self, name: Option<&str>) -> Option<&ApiClient> {
        self.0.clients.get(name.or(self.0.default.as_deref())?)
    }
}
