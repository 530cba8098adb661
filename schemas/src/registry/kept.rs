//! What the registry said, kept on disk: a process that is started while it is away writes and reads what it knew.
//!
//! Asked first only for seconds after the registry gave no answer: one that was made anew gives its ids other meanings,
//! and only it knows.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use uuid::Uuid;

/// More schemas than any registry of events holds; what comes after them is asked for anew by every process.
const ENTRIES_MAX: usize = 10_000;
/// A schema's JSON within JSON doubles its quotes.
const ENTRY_BYTES_MAX: u64 = 2 * super::ANSWER_BYTES_MAX as u64;

/// A directory of one registry's schemas, a file each.
#[derive(Debug)]
pub(super) struct Kept(PathBuf);

#[derive(Serialize, Deserialize)]
struct Entry {
    id: u32,
    schema: String,
    /// Of both, so that a file that was damaged is none.
    sum: Uuid,
}

impl Entry {
    fn new(id: u32, schema: String) -> Self {
        let sum = Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("{id} {schema}").as_bytes());
        Self { id, schema, sum }
    }

    fn is_whole(&self) -> bool {
        Self::new(self.id, self.schema.clone()).sum == self.sum
    }
}

impl Kept {
    /// Registries number their schemas each for itself.
    pub fn of(registry: &str, directory: &Path) -> Self {
        Self(directory.join(Uuid::new_v5(&Uuid::NAMESPACE_URL, registry.as_bytes()).simple().to_string()))
    }

    pub fn is_empty(&self) -> bool {
        self.files().next().is_none()
    }

    /// None as well where the file is damaged: it is written anew when the registry answers.
    pub fn schema(&self, id: u32) -> Option<String> {
        let entry = read(&self.file(id))?;
        (entry.id == id).then_some(entry.schema)
    }

    /// The same schema, however it is spaced.
    pub fn id_of(&self, schema: &str) -> Option<u32> {
        self.ids_of(schema).next()
    }

    fn ids_of(&self, schema: &str) -> impl Iterator<Item = u32> {
        let wanted = serde_json::from_str::<Value>(schema).ok();
        let is_wanted = move |entry: &Entry| wanted.is_some() && serde_json::from_str(&entry.schema).ok() == wanted;
        self.files().filter_map(|file| read(&file)).filter(is_wanted).map(|entry| entry.id)
    }

    /// Of all that is kept.
    pub fn ids(&self) -> impl Iterator<Item = u32> {
        self.files().filter_map(|file| file.file_stem()?.to_str()?.parse().ok())
    }

    /// Whole or not at all, whatever dies meanwhile and whoever else keeps the same.
    ///
    /// # Errors
    /// When the directory is full or can't be written: nothing is kept then, and nothing else is lost.
    pub fn keep(&self, id: u32, schema: &str) -> io::Result<()> {
        static WRITTEN: AtomicU32 = AtomicU32::new(0);
        if self.schema(id).is_some_and(|kept| kept == schema) {
            return Ok(());
        }
        fs::create_dir_all(&self.0)?;
        if !self.file(id).exists() && self.files().count() >= ENTRIES_MAX {
            return Err(io::Error::other(format!("there are {ENTRIES_MAX} schemas in it")));
        }
        let entry = serde_json::to_vec(&Entry::new(id, schema.to_owned()))?;
        let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
        let aside = self.0.join(format!("{id}.{}.{number}.new", std::process::id()));
        let written = fs::write(&aside, &entry).and_then(|()| fs::rename(&aside, self.file(id)));
        written.inspect_err(|_| drop(fs::remove_file(&aside)))?;
        self.forget_other_ids_of(id, schema);
        Ok(())
    }

    /// A registry that was made anew has given the schema another id: nothing is written under the old one any more.
    fn forget_other_ids_of(&self, id: u32, schema: &str) {
        for other in self.ids_of(schema).filter(|other| *other != id) {
            let _ = fs::remove_file(self.file(other)); // somebody else may have been faster
        }
    }

    fn file(&self, id: u32) -> PathBuf {
        self.0.join(format!("{id}.json"))
    }

    fn files(&self) -> impl Iterator<Item = PathBuf> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|ending| ending == "json"))
    }
}

fn read(file: &Path) -> Option<Entry> {
    let mut bytes = Vec::new();
    fs::File::open(file).ok()?.take(ENTRY_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok().filter(Entry::is_whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMA: &str = r#"{"type": "string"}"#;

    #[test]
    fn what_is_kept_is_found_by_id_and_by_schema_and_only_under_its_registry() {
        let directory = tempfile::tempdir().unwrap();
        let kept = Kept::of("http://one", directory.path());
        assert!(kept.is_empty());
        kept.keep(7, SCHEMA).unwrap();
        kept.keep(7, SCHEMA).unwrap();
        assert_eq!((kept.schema(7).as_deref(), kept.schema(8)), (Some(SCHEMA), None));
        assert_eq!((kept.id_of(r#"{"type":"string"}"#), kept.id_of("\"int\"")), (Some(7), None));
        assert!(!kept.is_empty() && Kept::of("http://two", directory.path()).is_empty());
        kept.keep(7, "\"int\"").unwrap();
        assert_eq!(kept.schema(7).as_deref(), Some("\"int\""), "a registry that was made anew is believed");
        kept.keep(3, "\"int\"").unwrap();
        assert_eq!((kept.id_of("\"int\""), kept.schema(7)), (Some(3), None), "and nothing goes out under the old id");
    }

    #[test]
    fn a_damaged_entry_is_none_and_is_written_anew() {
        let directory = tempfile::tempdir().unwrap();
        let kept = Kept::of("http://one", directory.path());
        kept.keep(7, SCHEMA).unwrap();
        let whole = fs::read_to_string(kept.file(7)).unwrap();
        let other_id = whole.replace("\"id\":7", "\"id\":8");
        for damaged in ["", &whole[..whole.len() / 2], &whole.replace("string", "strinh"), &other_id, "null"] {
            fs::write(kept.file(7), damaged).unwrap();
            assert_eq!((kept.schema(7), kept.id_of(SCHEMA)), (None, None), "{damaged}");
            kept.keep(7, SCHEMA).unwrap();
            assert_eq!(kept.schema(7).as_deref(), Some(SCHEMA));
        }
    }

    #[test]
    fn what_can_not_be_kept_is_said_and_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let kept = Kept::of("http://one", directory.path());
        fs::create_dir_all(kept.file(7)).unwrap(); // no file can take a directory's name
        assert!(kept.keep(7, SCHEMA).is_err());
        assert_eq!(fs::read_dir(&kept.0).unwrap().count(), 1);
        fs::write(directory.path().join("file"), "").unwrap();
        assert!(Kept::of("http://one", &directory.path().join("file")).keep(7, SCHEMA).is_err());
    }
}
