//! What each command does: a run, a search, a comparison, idle connections, a
//! churn, a merge of results.

pub mod churn;
pub mod compare;
pub mod idle;
pub mod merge;
pub mod run;
pub mod search;
