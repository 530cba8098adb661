//! The engine's C interface, and nothing but it: every `unsafe` of this crate is in this file.
//!
//! The declarations follow `programs/local/chdb.h` of chdb-io/chdb-core 26.7. What callers get is safe:
//! a [`Library`] that is never unloaded, a [`Connection`] that runs one statement at a time (`&mut self`),
//! and an [`InsertStream`] that borrows its connection until it is finished or dropped.
#![allow(unsafe_code)] // a C library can only be called so

use anyhow::Context as _;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;

/// The engine's functions, resolved once.
pub struct Library {
    connect: unsafe extern "C" fn(c_int, *mut *mut c_char) -> *mut Handle,
    close: unsafe extern "C" fn(*mut Handle),
    shutdown: unsafe extern "C" fn() -> c_int,
    query: QueryFn,
    classify: unsafe extern "C" fn(Handle, *const c_char, usize, *const c_char, usize, *mut Analysis) -> c_int,
    result_buffer: unsafe extern "C" fn(Handle) -> *const u8,
    result_length: unsafe extern "C" fn(Handle) -> usize,
    result_error: unsafe extern "C" fn(Handle) -> *const c_char,
    result_rows: Count,
    result_bytes: Count,
    storage_rows: Count,
    storage_bytes: Count,
    written_rows: Count,
    written_bytes: Count,
    destroy_result: unsafe extern "C" fn(Handle),
    insert: QueryFn,
    insert_append: unsafe extern "C" fn(Handle, *const c_void, usize) -> c_int,
    insert_done: unsafe extern "C" fn(Handle) -> Handle,
    insert_cancel: unsafe extern "C" fn(Handle),
    insert_error: unsafe extern "C" fn(Handle) -> *const c_char,
    insert_destroy: unsafe extern "C" fn(Handle),
}

/// `chdb_connection`, `chdb_result *` and `chdb_insert_stream`: all opaque pointers to us.
type Handle = *mut c_void;
type Count = unsafe extern "C" fn(Handle) -> u64;
/// `chdb_query_with_params_n` and `chdb_stream_insert_with_params_n` take the same arguments.
type QueryFn = unsafe extern "C" fn(
    Handle,
    *const c_char,
    usize,
    *const c_char,
    usize,
    *const *const c_char,
    *const usize,
    *const *const c_char,
    *const usize,
    usize,
) -> Handle;

/// `chdb_query_analysis_v1`.
#[repr(C)]
#[derive(Default)]
struct Analysis {
    struct_size: u32,
    statement_count: u32,
    flags: u32,
    query_class: u32,
}

/// `CHDB_QUERY_READ_ONLY`.
const READ_ONLY: u32 = 0;

impl Library {
    /// Loads the engine and keeps it for the life of the process: its threads run code in it until the end.
    pub fn load(path: &Path) -> anyhow::Result<&'static Self> {
        // SAFETY: loading runs the library's initialisers. The path is the pinned, checksummed part of the
        // local stack; whoever names another one vouches for it.
        let library = unsafe { libloading::Library::new(path) }
            .with_context(|| format!("could not load the ClickHouse engine from {}", path.display()))?;
        let library: &'static libloading::Library = Box::leak(Box::new(library));
        // SAFETY: the signature is the header's; the engine must not take the process's signals (SIGTERM is ours).
        unsafe { symbol::<unsafe extern "C" fn(c_int)>(library, "chdb_set_signal_handlers_enabled")?(0) };
        Ok(Box::leak(Box::new(Self::resolve(library)?)))
    }

    fn resolve(library: &'static libloading::Library) -> anyhow::Result<Self> {
        // SAFETY: each field's type is the signature that the header declares for the name beside it.
        unsafe {
            Ok(Self {
                connect: symbol(library, "chdb_connect")?,
                close: symbol(library, "chdb_close_conn")?,
                shutdown: symbol(library, "chdb_shutdown")?,
                query: symbol(library, "chdb_query_with_params_n")?,
                classify: symbol(library, "chdb_classify_query_n")?,
                result_buffer: symbol(library, "chdb_result_buffer")?,
                result_length: symbol(library, "chdb_result_length")?,
                result_error: symbol(library, "chdb_result_error")?,
                result_rows: symbol(library, "chdb_result_rows_read")?,
                result_bytes: symbol(library, "chdb_result_bytes_read")?,
                storage_rows: symbol(library, "chdb_result_storage_rows_read")?,
                storage_bytes: symbol(library, "chdb_result_storage_bytes_read")?,
                written_rows: symbol(library, "chdb_result_rows_written")?,
                written_bytes: symbol(library, "chdb_result_bytes_written")?,
                destroy_result: symbol(library, "chdb_destroy_query_result")?,
                insert: symbol(library, "chdb_stream_insert_with_params_n")?,
                insert_append: symbol(library, "chdb_stream_append")?,
                insert_done: symbol(library, "chdb_stream_done")?,
                insert_cancel: symbol(library, "chdb_stream_cancel_insert")?,
                insert_error: symbol(library, "chdb_stream_insert_error")?,
                insert_destroy: symbol(library, "chdb_destroy_insert_stream")?,
            })
        }
    }

    /// Stops what it can of the engine's threads, so that they don't meet the process's end halfway. Dropping the last
    /// [`Connection`] has closed the data by then; none can be opened afterwards.
    pub fn stop_threads(&self) {
        // SAFETY: no arguments; with a connection still open it does nothing. It reports failure whenever one thread of
        // a pool is left, which is always so after tables were written: no reason to alarm anyone.
        unsafe { (self.shutdown)() };
    }
}

/// # Safety
/// `T` must be the function pointer type of the symbol.
unsafe fn symbol<T: Copy>(library: &'static libloading::Library, name: &str) -> anyhow::Result<T> {
    // SAFETY: promised by the caller; the library is never unloaded, so the copied pointer stays good.
    let found = unsafe { library.get::<T>(name) };
    Ok(*found.with_context(|| format!("the engine library lacks {name}: another version than the pinned one?"))?)
}

/// What a statement read, wrote and answered, as far as the engine counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub read_rows: u64,
    pub read_bytes: u64,
    pub written_rows: u64,
    pub written_bytes: u64,
    pub result_rows: u64,
    pub result_bytes: u64,
}

/// A finished statement: its counts, and what it put into memory instead of into a file.
#[derive(Debug, Default)]
pub struct Finished {
    pub counts: Counts,
    pub output: Vec<u8>,
}

/// The engine's words about a failure, as it gave them.
#[derive(Debug, PartialEq, Eq)]
pub struct EngineError(pub String);

/// Names and values for the `{name:Type}` places of a statement.
pub type Parameters = [(String, String)];

/// One session of the engine: a current database, settings, temporary tables.
pub struct Connection {
    library: &'static Library,
    pointer: *mut Handle,
}

// SAFETY: the engine locks each connection inside; `&mut self` everywhere keeps one caller at a time.
// Which thread that is does not matter between statements.
unsafe impl Send for Connection {}

impl Connection {
    /// Opens a session on the one storage path of this process; the first one starts the engine.
    pub fn open(library: &'static Library, path: &Path) -> anyhow::Result<Self> {
        let arguments = [
            CString::new("clickhouse").context("could not name the engine")?,
            CString::new(format!("--path={}", path.display())).context("the data path holds a zero byte")?,
            CString::new("--implicit_select=0").context("could not pass a setting")?, // as on a server
        ];
        let mut pointers: Vec<*mut c_char> = arguments.iter().map(|text| text.as_ptr().cast_mut()).collect();
        let count = c_int::try_from(pointers.len()).context("too many arguments")?;
        // SAFETY: the strings outlive the call, which copies what it keeps.
        let pointer = unsafe { (library.connect)(count, pointers.as_mut_ptr()) };
        anyhow::ensure!(
            !pointer.is_null(),
            "the ClickHouse engine could not open {}: is another process using it, or is the disk full?",
            path.display()
        );
        Ok(Self { library, pointer })
    }

    /// Runs one statement to its end.
    pub fn query(&mut self, sql: &[u8], format: &str, parameters: &Parameters) -> Result<Finished, EngineError> {
        let result = self.call(self.library.query, sql, format, parameters);
        self.take(result)
    }

    /// Begins an insert whose rows come as bytes of `format`; `sql` ends before its FORMAT or VALUES.
    pub fn insert(
        &mut self,
        sql: &[u8],
        format: &str,
        parameters: &Parameters,
    ) -> Result<InsertStream<'_>, EngineError> {
        let handle = self.call(self.library.insert, sql, format, parameters);
        let stream = InsertStream { connection: self, handle, open: true };
        match stream.error() {
            None => Ok(stream),
            Some(error) => Err(error),
        }
    }

    /// Whether the engine's own parser says that every statement of `sql` leaves no trace.
    pub fn is_read_only(&mut self, sql: &[u8]) -> bool {
        let size = u32::try_from(size_of::<Analysis>()).unwrap_or(0);
        let mut analysis = Analysis { struct_size: size, ..Analysis::default() };
        // SAFETY: the pointers are good for the call; a null database means that none is meant.
        let state = unsafe {
            (self.library.classify)(self.handle(), sql.as_ptr().cast(), sql.len(), std::ptr::null(), 0, &mut analysis)
        };
        state == 0 && analysis.query_class == READ_ONLY && analysis.statement_count > 0
    }

    fn handle(&self) -> Handle {
        // SAFETY: `pointer` came from `connect` and is valid until `close`.
        unsafe { *self.pointer }
    }

    fn call(&self, function: QueryFn, sql: &[u8], format: &str, parameters: &Parameters) -> Handle {
        let names: Vec<*const c_char> = parameters.iter().map(|(name, _)| name.as_ptr().cast()).collect();
        let name_lengths: Vec<usize> = parameters.iter().map(|(name, _)| name.len()).collect();
        let values: Vec<*const c_char> = parameters.iter().map(|(_, value)| value.as_ptr().cast()).collect();
        let value_lengths: Vec<usize> = parameters.iter().map(|(_, value)| value.len()).collect();
        // SAFETY: every pointer comes with its length and outlives the call, which copies what it keeps.
        unsafe {
            function(
                self.handle(),
                sql.as_ptr().cast(),
                sql.len(),
                format.as_ptr().cast(),
                format.len(),
                names.as_ptr(),
                name_lengths.as_ptr(),
                values.as_ptr(),
                value_lengths.as_ptr(),
                parameters.len(),
            )
        }
    }

    /// Copies a result out and frees it.
    fn take(&self, result: Handle) -> Result<Finished, EngineError> {
        if result.is_null() {
            return Err(EngineError("the engine gave no result".into()));
        }
        // SAFETY: `result` is a live result until `destroy_result`; text and buffer are copied before that.
        unsafe {
            let library = self.library;
            let outcome = match text((library.result_error)(result)) {
                Some(error) => Err(EngineError(error)),
                None => Ok(Finished { counts: self.counts(result), output: self.output(result) }),
            };
            (library.destroy_result)(result);
            outcome
        }
    }

    /// # Safety
    /// `result` must be a live result.
    unsafe fn counts(&self, result: Handle) -> Counts {
        // SAFETY: promised by the caller.
        unsafe {
            Counts {
                read_rows: (self.library.storage_rows)(result),
                read_bytes: (self.library.storage_bytes)(result),
                written_rows: (self.library.written_rows)(result),
                written_bytes: (self.library.written_bytes)(result),
                result_rows: (self.library.result_rows)(result),
                result_bytes: (self.library.result_bytes)(result),
            }
        }
    }

    /// # Safety
    /// `result` must be a live result.
    unsafe fn output(&self, result: Handle) -> Vec<u8> {
        // SAFETY: promised by the caller; the buffer has the length that the engine says, or is null and empty.
        unsafe {
            let (buffer, length) = ((self.library.result_buffer)(result), (self.library.result_length)(result));
            if buffer.is_null() || length == 0 {
                Vec::new()
            } else {
                std::slice::from_raw_parts(buffer, length).to_vec()
            }
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: closed once; nothing borrows the connection any more.
        unsafe { (self.library.close)(self.pointer) }
    }
}

/// An insert that takes bytes. Dropped unfinished, it is cancelled: what the engine has not yet written as a
/// whole block is not written.
pub struct InsertStream<'connection> {
    connection: &'connection mut Connection,
    handle: Handle,
    open: bool,
}

impl InsertStream<'_> {
    /// Hands over some bytes; waits while the engine is behind. After an error call [`Self::finish`] for its reason.
    pub fn append(&mut self, data: &[u8]) -> Result<(), EngineError> {
        // SAFETY: the engine copies the bytes before it returns.
        let state = unsafe { (self.connection.library.insert_append)(self.handle, data.as_ptr().cast(), data.len()) };
        if state == 0 { Ok(()) } else { Err(EngineError("the insert failed before its data ended".into())) }
    }

    /// Ends the data and writes what remains.
    pub fn finish(mut self) -> Result<Counts, EngineError> {
        self.open = false;
        // SAFETY: the handle is live; the result is freed by `take`.
        let result = unsafe { (self.connection.library.insert_done)(self.handle) };
        self.connection.take(result).map(|finished| finished.counts)
    }

    fn error(&self) -> Option<EngineError> {
        // SAFETY: the handle is live; the text is copied at once.
        unsafe { text((self.connection.library.insert_error)(self.handle)) }.map(EngineError)
    }
}

impl Drop for InsertStream<'_> {
    fn drop(&mut self) {
        // SAFETY: destroyed once; cancelling a failed or finished stream does nothing.
        unsafe {
            if self.open {
                (self.connection.library.insert_cancel)(self.handle);
            }
            (self.connection.library.insert_destroy)(self.handle);
        }
    }
}

/// # Safety
/// `pointer` must be null or a live C string.
unsafe fn text(pointer: *const c_char) -> Option<String> {
    // SAFETY: promised by the caller.
    (!pointer.is_null()).then(|| unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned())
}
