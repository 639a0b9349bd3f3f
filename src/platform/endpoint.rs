//! Where the platform is: the URLs of one data center, and where a login may land.
//!
//! Nothing here sends anything.

use url::Url;

/// One data center of the platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataCenter {
    base: Url,
    token: Url,
    ott: Url,
    ott_login: Url,
    logout: Url,
}

/// Why a text is no data center URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDataCenterUrl {
    /// It is no absolute URL.
    #[error("is not an absolute URL")]
    NotAbsolute,
}

impl DataCenter {
    /// Reads a data center's URL, for example `https://eu2-cloud.acronis.com`.
    pub fn parse(text: &str) -> Result<Self, InvalidDataCenterUrl> {
        let base = Url::parse(text).map_err(|_| InvalidDataCenterUrl::NotAbsolute)?;
        let at = |path: &str| base.join(path).map_err(|_| InvalidDataCenterUrl::NotAbsolute);
        Ok(Self {
            token: at("/api/2/idp/token")?,
            ott: at("/api/2/idp/ott")?,
            ott_login: at("/api/2/idp/ott/login")?,
            logout: at("/api/2/idp/logout")?,
            base,
        })
    }

    /// The data center itself.
    #[must_use]
    pub const fn base_url(&self) -> &Url {
        &self.base
    }

    /// Where access tokens are fetched.
    #[must_use]
    pub const fn token_url(&self) -> &Url {
        &self.token
    }

    /// Where one-time tokens are issued.
    #[must_use]
    pub const fn ott_url(&self) -> &Url {
        &self.ott
    }

    /// Where one-time tokens are spent.
    #[must_use]
    pub const fn ott_login_url(&self) -> &Url {
        &self.ott_login
    }

    /// Where a session is ended.
    #[must_use]
    pub const fn logout_url(&self) -> &Url {
        &self.logout
    }
}
