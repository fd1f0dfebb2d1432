//! Makes an archive of a package: the same package, the same bytes, whatever its files' times, owners and order are.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

use crate::trust::tree::{self, Entry, TreeError, Visitor, What};

/// So much at once is compressed for itself, so that no more is held in memory. The compressor looks back less far than that.
const PIECE_BYTES: usize = 4 << 20;

/// The time of everything: the beginning of 1980, before which other programs believe none.
const TIME: u64 = 315_532_800;

/// What was packed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// The digest that the snapshot will have, in hexadecimal.
    pub digest: String,
    /// So many files and folders.
    pub entries: usize,
    /// So many bytes of files.
    pub bytes: u64,
}

/// Why a package was not packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// It cannot be read, or is none.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A program in it would be refused where it is unpacked.
    #[error("{} has a setuid or setgid bit, which no program of a package may have; run `chmod ug-s` on it", .0.display())]
    Privileged(PathBuf),
    /// The name of a file is none that an archive may have.
    #[error("{} has a name that is not UTF-8 or has control characters in it", .0.display())]
    Name(PathBuf),
    /// The archive cannot be written.
    #[error("the archive cannot be written: {0}")]
    Write(io::Error),
}

/// Writes the package in `folder` to `out`, a tar archive compressed by Zstandard, in which everything lies in a folder named `top`.
/// Blocks.
///
/// # Errors
/// [`PackError`], and part of it may be written.
pub fn pack(folder: &Path, top: &str, out: &mut dyn Write) -> Result<Packed, PackError> {
    let entries = tree::walk(folder, &Looking)?;
    let mut archive = tar::Builder::new(Pieces { out, piece: Vec::new() });
    let mut bytes = 0;
    let put = |archive: &mut tar::Builder<Pieces<'_>>, kind, size, executable, name: &str, content: &mut dyn Read| {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(if executable { 0o755 } else { 0o644 });
        header.set_mtime(TIME);
        header.set_uid(0);
        header.set_gid(0);
        archive.append_data(&mut header, name, content).map_err(PackError::Write)
    };
    put(&mut archive, EntryType::Directory, 0, true, &format!("{top}/"), &mut io::empty())?;
    for Entry { relative, what } in &entries {
        let path = folder.join(relative);
        let name = relative.to_str().filter(|name| !name.chars().any(char::is_control));
        let name = name.ok_or_else(|| PackError::Name(path.clone()))?;
        let name = format!("{top}/{name}");
        match what {
            What::Folder => put(&mut archive, EntryType::Directory, 0, true, &format!("{name}/"), &mut io::empty())?,
            What::File { digest, executable } => {
                let unreadable = |source| TreeError::Read { path: path.clone(), source };
                // It may be something else by now: whatever it is, it has to have the digest that it had.
                let flags = rustix::fs::OFlags::RDONLY
                    | rustix::fs::OFlags::NOFOLLOW
                    | rustix::fs::OFlags::NONBLOCK
                    | rustix::fs::OFlags::CLOEXEC;
                let file = rustix::fs::open(&path, flags, rustix::fs::Mode::empty())
                    .map_err(|error| unreadable(error.into()))?;
                let file = File::from(file);
                let metadata = file.metadata().map_err(unreadable)?;
                if !metadata.is_file() {
                    return Err(TreeError::Changed { path }.into());
                }
                let size = metadata.len();
                let mut hashed = Hashed { file: file.take(size), hasher: Sha256::new(), left: size };
                put(&mut archive, EntryType::Regular, size, *executable, &name, &mut hashed)?;
                if hashed.left != 0 || tree::hex(&hashed.hasher.finalize()) != *digest {
                    return Err(TreeError::Changed { path }.into());
                }
                bytes += size;
            }
        }
    }
    let mut pieces = archive.into_inner().map_err(PackError::Write)?;
    pieces.put().and_then(|()| pieces.out.flush()).map_err(PackError::Write)?;
    Ok(Packed { digest: tree::digest_of_all(&entries), entries: entries.len(), bytes })
}

/// Looks at every file, and refuses what would be refused where it is unpacked.
struct Looking;

impl Visitor for Looking {
    type Error = PackError;

    fn take(&self, file: File, path: &Path) -> Result<(String, bool), PackError> {
        let unreadable = |source| TreeError::Read { path: path.to_owned(), source };
        let metadata = file.metadata().map_err(unreadable)?;
        let mode = metadata.permissions().mode();
        if mode & 0o6000 != 0 {
            return Err(PackError::Privileged(path.to_owned()));
        }
        // One byte more than it had, so that a file that grows is seen to, and need not end.
        let (digest, bytes) = tree::hash(&mut file.take(metadata.len() + 1)).map_err(unreadable)?;
        if !metadata.is_file() || bytes != metadata.len() {
            return Err(TreeError::Changed { path: path.to_owned() }.into());
        }
        Ok((digest, mode & 0o111 != 0))
    }
}

/// A file whose digest is made while it is read.
struct Hashed {
    file: io::Take<File>,
    hasher: Sha256,
    left: u64,
}

impl Read for Hashed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.left = self.left.saturating_sub(count as u64);
        Ok(count)
    }
}

/// Compresses what is written, piece by piece.
struct Pieces<'a> {
    out: &'a mut dyn Write,
    piece: Vec<u8>,
}

impl Pieces<'_> {
    fn put(&mut self) -> io::Result<()> {
        if !self.piece.is_empty() {
            let compressed = compress_to_vec(self.piece.as_slice(), CompressionLevel::Fastest);
            self.out.write_all(&compressed)?;
            self.piece.clear();
        }
        Ok(())
    }
}

impl Write for Pieces<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(PIECE_BYTES - self.piece.len());
        self.piece.extend_from_slice(&bytes[..count]);
        if self.piece.len() == PIECE_BYTES {
            self.put()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
