//! The configured API clients, by name.

use std::{collections::HashMap, sync::Arc};

use crate::platform::PlatformClient;

/// The API clients of one worker. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ApiClients(Arc<ByName>);

#[derive(Debug)]
struct ByName {
    clients: HashMap<Arc<str>, PlatformClient>,
    default: Option<Arc<str>>,
}

impl ApiClients {
    /// These API clients; `default` names the one for requests that name none.
    #[must_use]
    pub fn new(clients: Vec<PlatformClient>, default: Option<Arc<str>>) -> Self {
        let clients = clients.into_iter().map(|client| (Arc::clone(client.name()), client)).collect();
        Self(Arc::new(ByName { clients, default }))
    }

    /// The API client of that name; without a name the default one.
    #[must_use]
    pub fn named(&self, name: Option<&str>) -> Option<&PlatformClient> {
        self.0.clients.get(name.or(self.0.default.as_deref())?)
    }
}
