//! Payloads from files: those of a directory in the order of their names, or a single one.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use thiserror::Error;

use super::PayloadKind;

/// The most bytes in all files together.
const TOTAL_LEN_MAX: u64 = 1 << 30;

/// Why files cannot be sent.
#[derive(Debug, Error)]
pub enum PayloadFilesError {
    /// One of them cannot be read.
    #[error("cannot read {}: {cause}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// There is none.
    #[error("the directory has no files")]
    NoFiles,
    /// There is too much.
    #[error("{total} bytes are too many; expected at most {TOTAL_LEN_MAX} in all files together")]
    TooLong {
        /// Bytes up to the first file that is too much.
        total: u64,
    },
    /// One of them is to be a text message and is not UTF-8.
    #[error("{} is not UTF-8, as the text messages of --text have to be", .0.display())]
    NotUtf8(PathBuf),
}

/// The contents of the file `path`, or of all files of the directory `path`, without those in
/// directories of its own.
pub fn read(path: &Path, kind: PayloadKind) -> Result<Vec<Box<[u8]>>, PayloadFilesError> {
    let mut total = 0;
    let mut contents = Vec::new();
    for path in list(path)? {
        let unreadable = |cause| PayloadFilesError::Read { path: path.clone(), cause };
        total += fs::metadata(&path).map_err(unreadable)?.len();
        if total > TOTAL_LEN_MAX {
            return Err(PayloadFilesError::TooLong { total });
        }
        let content = fs::read(&path).map_err(unreadable)?;
        if kind == PayloadKind::Text && str::from_utf8(&content).is_err() {
            return Err(PayloadFilesError::NotUtf8(path));
        }
        contents.push(content.into_boxed_slice());
    }
    if contents.is_empty() { Err(PayloadFilesError::NoFiles) } else { Ok(contents) }
}

fn list(path: &Path) -> Result<Vec<PathBuf>, PayloadFilesError> {
    let unreadable = |cause| PayloadFilesError::Read { path: path.to_owned(), cause };
    if !fs::metadata(path).map_err(unreadable)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.is_file() {
            files.push(path);
        }
    }
    files.sort_unstable();
    Ok(files)
}
