//! Libraries that are looked for when they are asked for, never when this crate is linked.
#![allow(unsafe_code)]

use std::error::Error as _;
use std::path::PathBuf;

use libloading::Library;

use crate::error::Error;

/// An answer of a library: what was asked for, or its words on why not.
pub(crate) type Said<T> = std::result::Result<T, String>;

/// Where to look for a library.
#[derive(Debug)]
pub(crate) struct Search {
    /// Its usual file name, for messages.
    pub(crate) name: &'static str,
    /// What the dynamic loader is asked for, in this order.
    pub(crate) candidates: Vec<PathBuf>,
    /// Added to the message, such as a variable that was looked at.
    pub(crate) note: String,
    /// What to install or set.
    pub(crate) remedy: &'static str,
}

impl Search {
    /// Opens the first candidate that can be opened. It stays open for the life of the process:
    /// its functions may be running on other threads at any time.
    ///
    /// # Errors
    /// [`Error::Unavailable`] with every candidate and the loader's answer.
    pub(crate) fn open(&self) -> Result<&'static Library, Error> {
        let mut answers = Vec::new();
        for candidate in &self.candidates {
            // SAFETY: rule: dlopen runs the initialisers of the library. Those of the driver and
            // of NCCL are made to be run by dlopen (PyTorch does the same), and the names are
            // fixed here or given by whoever started this process.
            match unsafe { Library::new(candidate) } {
                Ok(library) => return Ok(Box::leak(Box::new(library))),
                Err(e) => {
                    // The loader's own words are behind the library's general ones.
                    let said = e
                        .source()
                        .map_or_else(|| e.to_string(), ToString::to_string);
                    answers.push(format!("{} ({said})", candidate.display()));
                }
            }
        }
        Err(self.unavailable(format!(
            "looked for {}{}; LD_LIBRARY_PATH is {}",
            answers.join(", then "),
            self.note,
            std::env::var_os("LD_LIBRARY_PATH").map_or_else(
                || "not set".to_string(),
                |path| path.to_string_lossy().into_owned()
            )
        )))
    }

    /// The error for a library that is there but is of no use.
    pub(crate) fn unavailable(&self, reason: impl Into<String>) -> Error {
        Error::Unavailable {
            library: self.name.to_string(),
            reason: reason.into(),
            remedy: self.remedy.to_string(),
        }
    }
}

/// A struct of function pointers with a `load` that looks each one up by its symbol.
macro_rules! table {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $symbol:literal ($($arg:ty),* $(,)?) -> $ret:ty;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        struct $name {
            $($field: unsafe extern "C" fn($($arg),*) -> $ret,)*
        }

        impl $name {
            /// `Err` names the symbol that is missing.
            fn load(library: &'static libloading::Library) -> $crate::nccl::dynamic::Said<$name> {
                $(
                    // SAFETY: rule: a symbol may be used with the type it has in the library's C
                    // header, and the types in this table are copied from there. The library is
                    // never closed, so that the pointer stays valid.
                    let $field = *unsafe {
                        library.get::<unsafe extern "C" fn($($arg),*) -> $ret>($symbol)
                    }
                    .map_err(|e| format!("symbol {}: {e}", $symbol.escape_ascii()))?;
                )*
                Ok($name { $($field),* })
            }
        }
    };
}
pub(crate) use table;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_is_an_error_that_says_what_to_do() {
        // Promise: the error names what was looked for, where, and what to install or set.
        let search = Search {
            name: "libnothing.so.9",
            candidates: vec!["libnothing.so.9".into(), "/nowhere/libnothing.so.9".into()],
            note: " (ESPALIER_NOTHING is not set)".into(),
            remedy: "Install nothing",
        };
        let error = search.open().expect_err("there is no such library");
        let text = error.to_string();
        for part in [
            "libnothing.so.9 cannot be used",
            "/nowhere/libnothing.so.9",
            "ESPALIER_NOTHING",
            "LD_LIBRARY_PATH is",
            "Install nothing",
        ] {
            assert!(text.contains(part), "{part:?} is not in {text}");
        }
        assert!(!error.retryable());
    }
}
