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
    /// Creates the set. `default` is the name of the client for requests without `api_client`. Each has its treatment of tokens.
    #[must_use]
    pub fn new(clients: Vec<(ApiClient, Mode)>, default: Option<Arc<str>>) -> Self {
        let clients =
            clients.into_iter().map(|(client, mode)| (Arc::clone(client.name()), (client, mode))).collect();
        Self(Arc::new(ByName { clients, default }))
    }

    /// Returns the API client `name`; without a name, the default one.
    #[must_use]
    pub fn named(&self, name: Option<&str>) -> Option<&ApiClient> {
        self.0.clients.get(name.or(self.0.default.as_deref())?).map(|(client, _)| client)
    }

    /// Returns the treatment of the tokens of an API client.
    #[must_use]
    pub fn bind_tokens(&self, client: &ApiClient) -> Mode {
        self.0.clients.get(client.name()).map_or(Mode::default(), |(_, mode)| *mode)
    }
}
