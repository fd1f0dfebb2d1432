//! Plugin folders for tests: a manifest around a built program or a script.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

/// A package under construction; [`Package::write`] makes the folder.
#[derive(Debug, Clone)]
pub struct Package {
    id: String,
    manifest: Map<String, Value>,
    entry: Entry,
    mode: u32,
}

/// What the entry point is.
#[derive(Debug, Clone)]
pub enum Entry {
    /// A copy of a file.
    File(PathBuf),
    /// The same file under another name; for a thousand packages that would fill the disk.
    Link(PathBuf),
    /// These bytes.
    Bytes(Vec<u8>),
    /// Nothing: the manifest names a file that is not there.
    Missing,
}

impl Package {
    /// A package whose entry point is `entry`.
    #[must_use]
    pub fn new(id: &str, entry: Entry) -> Self {
        let Value::Object(manifest) =
            json!({"id": id, "name": id, "version": "0.1.0", "entry_point": "main", "environment": {}})
        else {
            unreachable!("an object literal is an object")
        };
        Self { id: id.to_owned(), manifest, entry, mode: 0o755 }
    }

    /// The shipped echo plugin.
    #[must_use]
    pub fn echo() -> Self {
        Self::new("echo", Entry::File(crate::command::built("echo"))).with("name", json!("Echo"))
    }

    /// The hostile plugin in that mode; see its sources for the modes. It asks for everything.
    #[must_use]
    pub fn hostile(id: &str, mode: &str) -> Self {
        let everything = json!(["execute_code", "file_read", "file_write", "system_access"]);
        Self::new(id, Entry::File(crate::command::built("palisade-hostile")))
            .asking(&everything)
            .environment("HOSTILE_ID", id)
            .environment("HOSTILE_MODE", mode)
    }

    /// Sets a field of the manifest.
    #[must_use]
    pub fn with(mut self, field: &str, value: Value) -> Self {
        self.manifest.insert(field.to_owned(), value);
        self
    }

    /// Asks for permissions: names, or objects of a name and its scope.
    ///
    /// # Panics
    /// When something else is asked for.
    #[must_use]
    pub fn asking(self, permissions: &Value) -> Self {
        let request = |asked: &Value| match asked {
            Value::Object(fields) => {
                let (permission, scope) = fields.iter().next().expect("a permission has a name");
                json!({"permission": permission, "scope": scope})
            }
            name => json!({"permission": name}),
        };
        let requests = permissions.as_array().expect("a list").iter().map(request).collect();
        self.with("permissions_required", Value::Array(requests))
    }

    /// Sets a variable of the plugin's environment.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        if let Some(Value::Object(environment)) = self.manifest.get_mut("environment") {
            environment.insert(name.to_owned(), json!(value));
        }
        self
    }

    /// Sets the entry point's mode.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// Makes the folder, named as the id, in `plugins`, and returns its path.
    ///
    /// # Panics
    /// When the disk does not let us.
    pub fn write(&self, plugins: &Path, marker: &str) -> PathBuf {
        let dir = plugins.join(&self.id);
        fs::create_dir_all(&dir).expect("a test's folder is writable");
        let marked = self.clone().environment("TEST_MARKER", marker);
        let manifest = serde_json::to_vec_pretty(&marked.manifest).expect("JSON values can be written");
        fs::write(dir.join("plugin.json"), manifest).expect("a test's folder is writable");
        let entry = dir.join("main");
        // Written beside and renamed: a process that runs the old file keeps it.
        let beside = dir.join(".main.new");
        match &self.entry {
            Entry::File(file) => {
                fs::copy(file, &beside).unwrap_or_else(|error| panic!("copying {}: {error}", file.display()));
            }
            Entry::Link(file) => {
                fs::hard_link(file, &beside).unwrap_or_else(|error| panic!("linking {}: {error}", file.display()));
            }
            Entry::Bytes(bytes) => fs::write(&beside, bytes).expect("a test's folder is writable"),
            Entry::Missing => return dir,
        }
        fs::set_permissions(&beside, fs::Permissions::from_mode(self.mode)).expect("the file is ours");
        fs::rename(&beside, &entry).expect("a test's folder is writable");
        dir
    }
}
