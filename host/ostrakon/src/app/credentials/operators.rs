//! The credentials of operators on other machines.

use std::sync::Arc;
use std::time::SystemTime;

use ostrakon_network::bearer::{BearerTokens, LiveTokens, TokensError};
use ostrakon_network::tls::Pair;
use ostrakon_observe::metrics::Guarded;
use serde_json::{Value, json};

use super::{Port, Values};

/// Why the Secret's keys for operators are refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OperatorsError {
    #[error("`admin-token` in the Secret cannot be used: {0}")]
    Tokens(#[from] TokensError),
    #[error("the Secret has `admin-tokens`, which is not a known key: call it `admin-token`")]
    Name,
}

/// The admin port, and where it finds the tokens.
pub(in crate::app) struct OperatorsPort(pub(in crate::app) LiveTokens);

impl Port for OperatorsPort {
    /// `None`: only operators on the same machine are admitted.
    type Made = Option<Arc<BearerTokens>>;
    type Error = OperatorsError;

    const NAME: Guarded = Guarded::Admin;
    const KEYS: &'static [&'static str] = &["admin-token", "admin-tokens"];

    fn make(
        &self,
        values: &Values,
        _: Option<&Self::Made>,
        _: SystemTime,
    ) -> Result<Self::Made, OperatorsError> {
        if values.get("admin-tokens").is_some() {
            return Err(OperatorsError::Name);
        }
        let tokens = values.get("admin-token").map(BearerTokens::read);
        Ok(tokens.transpose()?.map(Arc::new))
    }

    fn put_in_force(&self, made: &Arc<Self::Made>) {
        self.0.store(Option::clone(made));
    }

    fn status(made: &Self::Made) -> Value {
        json!({ "tokens": made.as_ref().map_or(0, |tokens| tokens.count()) })
    }

    fn pair(_: &Self::Made) -> Option<&Pair> {
        None
    }
}
