//! This side of every connection.

use super::identity::Identity;
use super::settings::Settings;
use super::token::Tokens;

/// What this process brings to each of its connections.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Who we are.
    pub identity: Identity,
    /// The tokens we share with the cluster.
    pub tokens: Tokens,
    /// Our bounds and times.
    pub settings: Settings,
}

impl Endpoint {
    /// An endpoint with the default settings.
    pub fn new(identity: Identity, tokens: Tokens) -> Self {
        Self {
            identity,
            tokens,
            settings: Settings::default(),
        }
    }
}
