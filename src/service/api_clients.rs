//! The configured API clients, by name.

use std::{collections::HashMap, sync::Arc};

use crate::{platform::ApiClient, token_binding::Mode};

/// The API clients of one worker. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ApiClients(Arc<ByName>);

#[derive(Debug)]
struct ByName {
    clients: HashMap<Arc<str>, (ApiClient, Mode)>,
    default: Option<Arc<str>>,
}

impl ApiClients {
    /// Creates the set. Each client has its treatment of tokens. `default` is the name of the client
    /// for requests without `api_client`.
    #[must_use]
    pub fn new(clients: Vec<(ApiClient, Mode)>, default: Option<Arc<str>>) -> Self {
        let by_name = |(client, mode): (ApiClient, Mode)| (Arc::clone(client.name()), (client, mode));
        Self(Arc::new(ByName { clients: clients.into_iter().map(by_name).collect(), default }))
    }

    /// Returns the same API clients, each of which accepts raw tokens.
    #[cfg(feature = "sandbox")]
    pub(super) fn accepting_raw(&self) -> Self {
        let clients = self.0.clients.values().map(|(client, _)| (client.clone(), Mode::AcceptRaw));
        Self::new(clients.collect(), self.0.default.clone())
    }

    /// Returns the API client `name`, with its treatment of tokens; without a name, the default one.
    #[must_use]
    pub fn named(&self, name: Option<&str>) -> Option<(&ApiClient, Mode)> {
        self.0.clients.get(name.or(self.0.default.as_deref())?).map(|(client, mode)| (client, *mode))
    }
}
