//! Flags about what is in the messages.

use std::{ops::RangeInclusive, path::PathBuf};

use bytesize::ByteSize;

use super::{PlanError, values::sizes};
use crate::payload::{PayloadKind, PayloadPlan, PayloadSource, Verify, files};

const PAYLOAD: RangeInclusive<ByteSize> = ByteSize(0)..=ByteSize(1 << 30);

/// Flags about what is in the messages.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = super::LOAD)]
pub struct PayloadArgs {
    /// Payload of each message, such as 64, 16KiB or 1MB; or a range such as 16..64KiB, from which
    /// sizes are drawn so that each doubling is as likely as any other
    #[arg(short, long, value_name = "SIZE", default_value = "64", value_parser = sizes(PAYLOAD))]
    pub payload: RangeInclusive<usize>,

    /// Send the contents of FILE instead, or of all files of a directory in turn
    #[arg(long, value_name = "FILE", conflicts_with = "payload")]
    pub payload_from: Option<PathBuf>,

    /// Send texts (generated ones have characters of 1 to 4 bytes) instead of binary messages
    #[arg(long)]
    pub text: bool,
}

impl PayloadArgs {
    /// What is in the messages, and what of their echoes is compared. Reads the files, if there are
    /// any.
    pub(super) fn plan(&self, verify: Verify) -> Result<PayloadPlan, PlanError> {
        let kind = if self.text { PayloadKind::Text } else { PayloadKind::Binary };
        let source = match &self.payload_from {
            None => PayloadSource::Generated(self.payload.clone()),
            Some(path) => {
                let files = files::read(path, kind)
                    .map_err(|cause| PlanError::PayloadFrom { path: path.clone(), cause })?;
                PayloadSource::Files(files.into())
            }
        };
        Ok(PayloadPlan { kind, source, verify })
    }
}
