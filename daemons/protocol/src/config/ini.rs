//! Reading of config files and asking for values.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::str::FromStr;
use std::time::Duration;

use super::error::ConfigError;
use super::value::{parse_bool, parse_duration, parse_size};

/// How deep files may include each other.
const MAX_INCLUDE_DEPTH: usize = 16;
/// How many entries all files together may have: a bound for includes that multiply.
const MAX_ENTRIES: usize = 1 << 20;

/// One `key = value`, and where it stands.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The section, empty above the first one.
    pub section: Rc<str>,
    /// The key.
    pub key: String,
    /// The value, without the space around it.
    pub value: String,
    /// The file it stands in.
    pub file: Rc<Path>,
    /// The line, from 1.
    pub line: usize,
    asked: Cell<bool>,
}

impl Entry {
    /// The error that says what this entry's value should be.
    pub fn error(&self, expected: impl Display) -> ConfigError {
        ConfigError::Value {
            file: self.file.to_path_buf(),
            line: self.line,
            key: self.key.clone(),
            value: self.value.clone(),
            expected: expected.to_string(),
        }
    }
}

/// A config file with everything it includes.
#[derive(Debug)]
pub struct Ini {
    file: Rc<Path>,
    entries: Vec<Entry>,
    strays: Vec<(Rc<Path>, usize, String)>,
    // Indexes of each section's entries: data files have thousands of sections.
    sections: HashMap<Rc<str>, Vec<usize>>,
    // The keys that were asked for, in whatever section, there or not: those that have a meaning.
    known: RefCell<BTreeSet<String>>,
}

impl Ini {
    /// Reads a file from disk, and the files it includes.
    pub fn load(path: &Path) -> Result<Ini, ConfigError> {
        Ini::load_with(path, &mut |path| std::fs::read(path))
    }

    /// Reads a file, and the files it includes, with `read`.
    pub fn load_with(path: &Path, read: &mut dyn FnMut(&Path) -> io::Result<Vec<u8>>) -> Result<Ini, ConfigError> {
        let text = read(path).map_err(|source| ConfigError::Read { file: path.to_path_buf(), source })?;
        Ini::parse(path, &text, read)
    }

    /// Parses `text`, which stands in the file `path`. Bytes that are not UTF-8 (comments in old
    /// encodings are common) are replaced, not refused.
    pub fn parse(
        path: &Path,
        text: &[u8],
        read: &mut dyn FnMut(&Path) -> io::Result<Vec<u8>>,
    ) -> Result<Ini, ConfigError> {
        let file: Rc<Path> = path.into();
        let mut parser = Parser { entries: Vec::new(), strays: Vec::new(), section: "".into(), counted: 0, read };
        parser.file(&file, text, 0)?;
        let mut sections: HashMap<Rc<str>, Vec<usize>> = HashMap::new();
        for (index, entry) in parser.entries.iter().enumerate() {
            sections.entry(entry.section.clone()).or_default().push(index);
        }
        Ok(Ini { file, entries: parser.entries, strays: parser.strays, sections, known: RefCell::default() })
    }

    /// Parses text that includes nothing: an `#include` in it is an error.
    pub fn parse_text(path: &Path, text: &[u8]) -> Result<Ini, ConfigError> {
        let refuse = "this text cannot include files";
        Ini::parse(path, text, &mut |_| Err(io::Error::new(io::ErrorKind::Unsupported, refuse)))
    }

    /// The file this was read from.
    pub fn path(&self) -> &Path {
        &self.file
    }

    /// The keys above the first section header.
    pub fn global(&self) -> Section<'_> {
        Section { ini: self, name: "", or_global: false }
    }

    /// The keys of a section, which may have none.
    pub fn section<'a>(&'a self, name: &'a str) -> Section<'a> {
        Section { ini: self, name, or_global: false }
    }

    /// The keys of a section; for those it does not have, the global ones. So it is with the log
    /// sections, whose keys stood above the first section in older versions.
    pub fn section_or_global<'a>(&'a self, name: &'a str) -> Section<'a> {
        Section { ini: self, name, or_global: true }
    }

    /// The names of all sections with keys, in order, without the global one.
    pub fn section_names(&self) -> Vec<&str> {
        let mut firsts: Vec<(usize, &str)> = self
            .sections
            .iter()
            .filter(|(name, _)| !name.is_empty())
            .filter_map(|(name, entries)| Some((*entries.first()?, &**name)))
            .collect();
        firsts.sort_unstable();
        firsts.into_iter().map(|(_, name)| name).collect()
    }

    /// The entries of a key, which count as asked for from now on, repeats included.
    fn find(&self, section: &str, key: &str) -> Vec<&Entry> {
        let mut known = self.known.borrow_mut();
        if !known.contains(key) {
            known.insert(key.to_owned());
        }
        let indexes = self.sections.get(section).map(Vec::as_slice).unwrap_or_default();
        let entries = indexes.iter().map(|&index| &self.entries[index]);
        entries.filter(|entry| entry.key == key).inspect(|entry| entry.asked.set(true)).collect()
    }

    /// All entries, in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// What the person who wrote this should know, after a config was built from it: the keys that nobody has asked for
    /// and that are not among `silent`, which have no effect, and the lines that are neither comment, key, section nor
    /// empty. FastDFS passes over all of them, so they are no errors.
    ///
    /// A key without a value asks for nothing, and neither do those of the web server that FastDFS once had, which its
    /// sample files still show: nothing is said of these.
    pub fn warnings(&self, silent: &[&str]) -> Vec<String> {
        let unused = self.entries.iter().filter(|entry| !entry.asked.get() && !entry.value.is_empty());
        let unknown = unused
            .filter(|entry| !silent.contains(&entry.key.as_str()) && !entry.key.starts_with("http."))
            .map(|entry| {
                let hint = self.nearest(&entry.key).map(|key| format!("; did you mean {key}?")).unwrap_or_default();
                format!(
                    "{}:{}: {}: unknown to this version, has no effect{hint}",
                    entry.file.display(),
                    entry.line,
                    entry.key
                )
            });
        let strays = self.strays.iter().map(|(file, line, text)| {
            format!("{}:{line}: `{text}`: neither a key with a value nor a comment, has no effect", file.display())
        });
        unknown.chain(strays).collect()
    }

    /// The known key that is most like an unknown one, if one is. Another number, as in `store_path1`, is no slip.
    fn nearest(&self, key: &str) -> Option<String> {
        let word = |key: &str| key.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned();
        let known = self.known.borrow();
        let near = known.iter().map(|other| (strsim::osa_distance(key, other), other));
        let near = near.filter(|(distance, other)| distance * 4 <= key.len() && word(key) != word(other));
        near.min().map(|(_, other)| other.clone())
    }
}

struct Parser<'a> {
    entries: Vec<Entry>,
    strays: Vec<(Rc<Path>, usize, String)>,
    section: Rc<str>,
    counted: usize,
    read: &'a mut dyn FnMut(&Path) -> io::Result<Vec<u8>>,
}

impl Parser<'_> {
    fn file(&mut self, file: &Rc<Path>, text: &[u8], depth: usize) -> Result<(), ConfigError> {
        let text = String::from_utf8_lossy(text);
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        for (index, line) in text.lines().enumerate() {
            self.line(file, index + 1, line.trim(), depth)?;
        }
        Ok(())
    }

    fn line(&mut self, file: &Rc<Path>, line: usize, text: &str, depth: usize) -> Result<(), ConfigError> {
        if let Some(included) = include_directive(text) {
            self.count(file, line)?;
            return self.include(file, line, included, depth);
        }
        if text.is_empty() || text.starts_with('#') {
            return Ok(());
        }
        if let Some(header) = text.strip_prefix('[') {
            let name = header.strip_suffix(']').map(str::trim).filter(|name| !name.is_empty());
            let name =
                name.ok_or_else(|| ConfigError::Section { file: file.to_path_buf(), line, text: text.to_owned() })?;
            self.section = name.into();
            return Ok(());
        }
        self.count(file, line)?;
        match text.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => self.entries.push(Entry {
                section: self.section.clone(),
                key: key.trim().to_owned(),
                value: value.trim().to_owned(),
                file: file.clone(),
                line,
                asked: Cell::new(false),
            }),
            _ => self.strays.push((file.clone(), line, text.to_owned())),
        }
        Ok(())
    }

    /// Counts an entry or include towards the limit.
    fn count(&mut self, file: &Path, line: usize) -> Result<(), ConfigError> {
        self.counted += 1;
        if self.counted > MAX_ENTRIES {
            return Err(ConfigError::TooLarge { at: file.to_path_buf(), line, limit: MAX_ENTRIES });
        }
        Ok(())
    }

    fn include(&mut self, at: &Rc<Path>, line: usize, name: &str, depth: usize) -> Result<(), ConfigError> {
        if depth >= MAX_INCLUDE_DEPTH {
            let limit = MAX_INCLUDE_DEPTH;
            return Err(ConfigError::TooDeep { at: at.to_path_buf(), line, limit });
        }
        let file: PathBuf = at.parent().unwrap_or(Path::new("")).join(name);
        let text = (self.read)(&file).map_err(|source| ConfigError::Include {
            at: at.to_path_buf(),
            line,
            file: file.clone(),
            source,
        })?;
        // Keys of the included file belong to the section of the #include line; a section header
        // in it ends with it.
        let section = self.section.clone();
        self.file(&file.into(), &text, depth + 1)?;
        self.section = section;
        Ok(())
    }
}

/// The file name of an `#include` line.
fn include_directive(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("#include")?;
    let name = rest.trim_matches(|c: char| c.is_whitespace() || c == '"');
    // "#includes" is a comment, "#include" alone as well.
    (rest.starts_with([' ', '\t', '"']) && !name.is_empty()).then_some(name)
}

/// The keys of one section.
#[derive(Debug, Clone, Copy)]
pub struct Section<'a> {
    ini: &'a Ini,
    name: &'a str,
    or_global: bool,
}

impl<'a> Section<'a> {
    /// The entry that counts for a key: the last one.
    pub fn entry(&self, key: &str) -> Option<&'a Entry> {
        self.entries_of(key).last()
    }

    /// All entries of a key that may be repeated, in order.
    pub fn entries_of(&self, key: &str) -> impl DoubleEndedIterator<Item = &'a Entry> + use<'a> {
        let mut found = self.ini.find(self.name, key);
        if found.is_empty() && self.or_global {
            found = self.ini.find("", key);
        }
        found.into_iter()
    }

    /// The text of a key; it may be empty.
    pub fn str(&self, key: &str) -> Option<&'a str> {
        self.entry(key).map(|entry| entry.value.as_str())
    }

    /// The texts of a key that may be repeated.
    pub fn all(&self, key: &str) -> impl DoubleEndedIterator<Item = &'a str> + use<'a> {
        self.entries_of(key).map(|entry| entry.value.as_str())
    }

    /// The text of a key that must be there and not be empty; `hint` says what to write.
    pub fn required(&self, key: &str, hint: &str) -> Result<&'a str, ConfigError> {
        match self.str(key) {
            Some(value) if !value.is_empty() => Ok(value),
            _ => Err(self.missing(key, hint)),
        }
    }

    /// The error for a key that is not there.
    pub fn missing(&self, key: &str, hint: &str) -> ConfigError {
        ConfigError::Missing { file: self.ini.file.to_path_buf(), key: key.to_owned(), hint: hint.to_owned() }
    }

    /// A value read with `parse`; `default` when the key is absent or empty.
    pub fn value<T>(
        &self,
        key: &str,
        default: T,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, ConfigError> {
        match self.entry(key) {
            Some(entry) if !entry.value.is_empty() => parse(&entry.value).ok_or_else(|| entry.error(expected)),
            _ => Ok(default),
        }
    }

    /// Yes or no. See [`parse_bool`].
    pub fn bool(&self, key: &str, default: bool) -> Result<bool, ConfigError> {
        self.value(key, default, "needs true or false", parse_bool)
    }

    /// A size in bytes. See [`parse_size`].
    pub fn size(&self, key: &str, default: u64) -> Result<u64, ConfigError> {
        self.value(key, default, "needs a size such as 256KB", parse_size)
    }

    /// A duration, in seconds without a unit. See [`parse_duration`].
    pub fn duration(&self, key: &str, default: Duration) -> Result<Duration, ConfigError> {
        self.value(key, default, "needs a number of seconds", parse_duration)
    }

    /// A duration, in milliseconds without a unit.
    pub fn duration_ms(&self, key: &str, default: Duration) -> Result<Duration, ConfigError> {
        self.value(key, default, "needs a number of milliseconds", |text| match text.parse().ok() {
            Some(ms) => Some(Duration::from_millis(ms)),
            None => parse_duration(text),
        })
    }

    /// A number within `range`.
    pub fn number<T>(&self, key: &str, default: T, range: std::ops::RangeInclusive<T>) -> Result<T, ConfigError>
    where
        T: FromStr + PartialOrd + Display,
    {
        let expected = format!("needs a number from {} to {}", range.start(), range.end());
        let parse = |text: &str| text.parse().ok().filter(|number| range.contains(number));
        self.value(key, default, &expected, parse)
    }

    /// A value of a type that can be read from text, such as [`super::TimeOfDay`].
    pub fn parsed<T>(&self, key: &str, default: T) -> Result<T, ConfigError>
    where
        T: FromStr,
        T::Err: Display,
    {
        match self.entry(key) {
            Some(entry) if !entry.value.is_empty() => entry.value.parse().map_err(|error| entry.error(error)),
            _ => Ok(default),
        }
    }
}

#[cfg(test)]
mod tests;
