//! What can be wrong with a cycle.

use thiserror::Error;

use crate::{
    count::connection_error::ConnectionError,
    verify::received::{StreamEnd, WrongEcho},
};

/// What is not as it should be.
#[derive(Debug, Error)]
pub(super) enum CycleError {
    #[error("{0}")]
    Connection(#[from] ConnectionError),
    #[error("{0}")]
    Wrong(#[from] WrongEcho),
}

impl From<StreamEnd> for CycleError {
    fn from(end: StreamEnd) -> Self {
        match end {
            StreamEnd::Close(code) => ConnectionError::ClosedWith(code),
            StreamEnd::Violation(violation) => ConnectionError::Violation(violation),
        }
        .into()
    }
}
