//! A pickle interpreter that can build numbers, strings, containers and descriptions of tensors, and can call nothing.
//!
//! Pickle is a program for a stack machine; Python's runs any function the file names. This one knows the instructions and
//! the few names that `torch.save` of a state dict uses, treats those names as data, and refuses all others.
//!
//! Source: `Lib/pickle.py` and `Lib/pickletools.py` of CPython; `torch/_utils.py` for the shape of the calls.

use std::collections::BTreeMap;

use safetensors::Dtype;

use super::super::PickleError;

/// Index into [`Heap`]. Values refer to each other by index, so that nesting a million deep costs no call stack and
/// sharing costs no memory.
pub(super) type Id = usize;

/// What a pickle may build.
#[derive(Debug, Clone)]
pub(super) enum Value {
    None,
    Bool,
    Int(i128),
    Str(String),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(Global),
    Storage(Storage),
    Tensor(TensorRecord),
}

/// The names a state dict may use.
#[derive(Debug, Clone, Copy)]
pub(super) enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(Dtype),
}

/// Raw elements, stored elsewhere in the file under `key`.
#[derive(Debug, Clone)]
pub(super) struct Storage {
    pub key: String,
    pub dtype: Dtype,
    pub elements: usize,
}

/// A view of a storage, as the pickle states it: not yet checked against the storage's length.
#[derive(Debug, Clone)]
pub(super) struct TensorRecord {
    pub storage: Storage,
    pub storage_offset: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

/// All values of one pickle.
#[derive(Debug, Default)]
pub(super) struct Heap(Vec<Value>);

impl Heap {
    pub fn get(&self, id: Id) -> &Value {
        // Ids are made by `add` and never removed.
        &self.0[id]
    }

    fn add(&mut self, value: Value) -> Id {
        self.0.push(value);
        self.0.len() - 1
    }
}

/// Runs the pickle at the start of `program`; gives its values, the result and the number of bytes it took.
pub(super) fn run(program: &[u8]) -> Result<(Heap, Id, usize), PickleError> {
    let mut machine = Machine {
        program,
        at: 0,
        op_at: 0,
        heap: Heap::default(),
        stack: vec![],
        marks: vec![],
        memo: BTreeMap::new(),
    };
    let result = machine.run()?;
    Ok((machine.heap, result, machine.at))
}

struct Machine<'a> {
    program: &'a [u8],
    /// Next byte to read.
    at: usize,
    /// Where the current instruction began, for messages.
    op_at: usize,
    heap: Heap,
    stack: Vec<Id>,
    /// Stack heights at the open MARKs.
    marks: Vec<usize>,
    memo: BTreeMap<u32, Id>,
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Result<Id, PickleError> {
        loop {
            self.op_at = self.at;
            match self.u8()? {
                0x80 => self.protocol()?,
                0x95 => _ = self.take::<8>()?, // FRAME: a hint for buffering
                b'.' => return self.pop(),     // STOP

                b'N' => self.push(Value::None),
                0x88 | 0x89 => self.push(Value::Bool), // NEWTRUE, NEWFALSE: only `requires_grad`, which nothing here needs
                b'K' => self.int(|machine| Ok(machine.u8()?.into()))?, // BININT1
                b'M' => self.int(|machine| Ok(u16::from_le_bytes(machine.take()?).into()))?, // BININT2
                b'J' => self.int(|machine| Ok(i32::from_le_bytes(machine.take()?).into()))?, // BININT
                0x8a => self.long1()?,
                0x8c => self.string(|machine| Ok(machine.u8()?.into()))?, // SHORT_BINUNICODE
                b'X' => self.string(|machine| machine.u32())?,            // BINUNICODE

                b'(' => self.marks.push(self.stack.len()), // MARK
                b')' => self.push(Value::Tuple(vec![])),   // EMPTY_TUPLE
                0x85 => self.small_tuple(1)?,              // TUPLE1
                0x86 => self.small_tuple(2)?,              // TUPLE2
                0x87 => self.small_tuple(3)?,              // TUPLE3
                b't' => {
                    // TUPLE
                    let items = self.pop_mark()?;
                    self.push(Value::Tuple(items));
                }
                b']' => self.push(Value::List(vec![])), // EMPTY_LIST
                b'a' => {
                    // APPEND
                    let item = self.pop()?;
                    self.append(vec![item])?;
                }
                b'e' => {
                    // APPENDS
                    let items = self.pop_mark()?;
                    self.append(items)?;
                }
                b'}' => self.push(Value::Dict(vec![])), // EMPTY_DICT
                b's' => {
                    // SETITEM
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.set_items(&[key, value])?;
                }
                b'u' => {
                    // SETITEMS
                    let items = self.pop_mark()?;
                    self.set_items(&items)?;
                }

                b'q' => {
                    // BINPUT
                    let slot = self.u8()?.into();
                    self.memoize(slot)?;
                }
                b'r' => {
                    // LONG_BINPUT
                    let slot = self.u32()?;
                    self.memoize(slot)?;
                }
                0x94 => {
                    // MEMOIZE; a memo has at most one entry for each byte of a bounded program
                    let slot = self.memo.len() as u32;
                    self.memoize(slot)?;
                }
                b'h' => {
                    // BINGET
                    let slot = self.u8()?.into();
                    self.recall(slot)?;
                }
                b'j' => {
                    // LONG_BINGET
                    let slot = self.u32()?;
                    self.recall(slot)?;
                }

                b'c' => {
                    // GLOBAL
                    let (module, name) = (self.line()?, self.line()?);
                    self.global(&module, &name)?;
                }
                0x93 => self.stack_global()?,
                b'Q' => self.persistent_id()?, // BINPERSID
                b'R' => self.reduce()?,        // REDUCE
                b'b' => self.build()?,         // BUILD

                opcode => return Err(PickleError::Opcode { opcode, offset: self.op_at }),
            }
        }
    }

    fn protocol(&mut self) -> Result<(), PickleError> {
        match self.u8()? {
            2..=5 => Ok(()),
            _ => Err(self.malformed("expected pickle protocol 2 to 5")),
        }
    }

    fn int(&mut self, read: impl FnOnce(&mut Self) -> Result<i128, PickleError>) -> Result<(), PickleError> {
        let value = read(self)?;
        self.push(Value::Int(value));
        Ok(())
    }

    /// LONG1: little-endian two's complement of a stated length.
    fn long1(&mut self) -> Result<(), PickleError> {
        let length = self.u8()?.into();
        let bytes = self.bytes(length)?;
        let fill = if bytes.last().is_some_and(|&last| last >= 0x80) { 0xff } else { 0 };
        let mut wide = [fill; 16];
        let Some(low) = wide.get_mut(..bytes.len()) else {
            return Err(self.malformed("expected an integer of at most 16 bytes"));
        };
        low.copy_from_slice(bytes);
        self.push(Value::Int(i128::from_le_bytes(wide)));
        Ok(())
    }

    fn string(&mut self, length: impl FnOnce(&mut Self) -> Result<u32, PickleError>) -> Result<(), PickleError> {
        let length = length(self)? as usize;
        let bytes = self.bytes(length)?;
        let text = str::from_utf8(bytes).map_err(|_| self.malformed("expected a UTF-8 string"))?.to_owned();
        self.push(Value::Str(text));
        Ok(())
    }

    fn small_tuple(&mut self, length: usize) -> Result<(), PickleError> {
        let mut items = (0..length).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        items.reverse();
        self.push(Value::Tuple(items));
        Ok(())
    }

    fn append(&mut self, mut items: Vec<Id>) -> Result<(), PickleError> {
        let list = self.top()?;
        match &mut self.heap.0[list] {
            Value::List(list) => list.append(&mut items),
            _ => return Err(self.malformed("expected a list to append to")),
        }
        Ok(())
    }

    fn set_items(&mut self, items: &[Id]) -> Result<(), PickleError> {
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(self.malformed("expected pairs of key and value"));
        }
        let dict = self.top()?;
        match &mut self.heap.0[dict] {
            Value::Dict(dict) => dict.extend(pairs.iter().map(|&[key, value]| (key, value))),
            _ => return Err(self.malformed("expected a dictionary to set items in")),
        }
        Ok(())
    }

    fn memoize(&mut self, slot: u32) -> Result<(), PickleError> {
        let top = self.top()?;
        self.memo.insert(slot, top);
        Ok(())
    }

    fn recall(&mut self, slot: u32) -> Result<(), PickleError> {
        let Some(&id) = self.memo.get(&slot) else { return Err(self.malformed("expected a memo slot that is filled")) };
        self.stack.push(id);
        Ok(())
    }

    fn stack_global(&mut self) -> Result<(), PickleError> {
        let (name, module) = (self.pop()?, self.pop()?);
        let (Value::Str(module), Value::Str(name)) = (self.heap.get(module), self.heap.get(name)) else {
            return Err(self.malformed("expected a module and a name"));
        };
        let (module, name) = (module.clone(), name.clone());
        self.global(&module, &name)
    }

    fn global(&mut self, module: &str, name: &str) -> Result<(), PickleError> {
        let global = match (module, name) {
            ("collections", "OrderedDict") => Global::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Global::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Global::RebuildParameter,
            ("torch", "FloatStorage") => Global::Storage(Dtype::F32),
            ("torch", "HalfStorage") => Global::Storage(Dtype::F16),
            ("torch", "BFloat16Storage") => Global::Storage(Dtype::BF16),
            ("torch", "DoubleStorage") => Global::Storage(Dtype::F64),
            ("torch", "LongStorage") => Global::Storage(Dtype::I64),
            ("torch", "IntStorage") => Global::Storage(Dtype::I32),
            ("torch", "ShortStorage") => Global::Storage(Dtype::I16),
            ("torch", "CharStorage") => Global::Storage(Dtype::I8),
            ("torch", "ByteStorage") => Global::Storage(Dtype::U8),
            ("torch", "BoolStorage") => Global::Storage(Dtype::BOOL),
            _ => return Err(PickleError::Global { name: format!("{module}.{name}"), offset: self.op_at }),
        };
        self.push(Value::Global(global));
        Ok(())
    }

    /// `("storage", type, key, device, elements)`; the legacy format adds a view of another storage, or None.
    fn persistent_id(&mut self) -> Result<(), PickleError> {
        let id = self.pop()?;
        let storage = self.storage(id).ok_or_else(|| self.malformed("expected a reference to a tensor storage"))?;
        self.push(Value::Storage(storage));
        Ok(())
    }

    fn storage(&self, id: Id) -> Option<Storage> {
        let Value::Tuple(items) = self.heap.get(id) else { return None };
        let (items, view) = items.split_first_chunk::<5>()?;
        let no_view = match view {
            [] => true,
            [view] => matches!(self.heap.get(*view), Value::None),
            _ => false,
        };
        match items.map(|item| self.heap.get(item)) {
            [
                Value::Str(tag),
                Value::Global(Global::Storage(dtype)),
                Value::Str(key),
                Value::Str(_),
                Value::Int(elements),
            ] if tag == "storage" && no_view => {
                Some(Storage { key: key.clone(), dtype: *dtype, elements: usize::try_from(*elements).ok()? })
            }
            _ => None,
        }
    }

    /// The three calls a state dict makes, done here as plain construction.
    fn reduce(&mut self) -> Result<(), PickleError> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let Value::Tuple(arguments) = self.heap.get(arguments) else {
            return Err(self.malformed("expected a tuple of arguments"));
        };
        let result = match (self.heap.get(function), arguments.as_slice()) {
            (Value::Global(Global::OrderedDict), []) => Some(Value::Dict(vec![])),
            // storage, offset, shape, strides; then requires_grad and hooks, which mean nothing here
            (Value::Global(Global::RebuildTensor), [storage, offset, shape, strides, ..]) => {
                self.tensor([*storage, *offset, *shape, *strides]).map(Value::Tensor)
            }
            // tensor; then requires_grad and hooks
            (Value::Global(Global::RebuildParameter), [tensor, ..]) => match self.heap.get(*tensor) {
                tensor @ Value::Tensor(_) => Some(tensor.clone()),
                _ => None,
            },
            _ => None,
        };
        let result =
            result.ok_or_else(|| self.malformed("expected the arguments of a tensor or an empty dictionary"))?;
        self.push(result);
        Ok(())
    }

    fn tensor(&self, arguments: [Id; 4]) -> Option<TensorRecord> {
        let [Value::Storage(storage), Value::Int(offset), shape, strides] = arguments.map(|id| self.heap.get(id))
        else {
            return None;
        };
        let (shape, strides) = (self.sizes(shape)?, self.sizes(strides)?);
        let storage_offset = usize::try_from(*offset).ok()?;
        (shape.len() == strides.len()).then(|| TensorRecord {
            storage: storage.clone(),
            storage_offset,
            shape,
            strides,
        })
    }

    fn sizes(&self, value: &Value) -> Option<Vec<usize>> {
        let Value::Tuple(items) = value else { return None };
        let size = |&item: &Id| match self.heap.get(item) {
            Value::Int(size) => usize::try_from(*size).ok(),
            _ => None,
        };
        items.iter().map(size).collect()
    }

    /// BUILD sets attributes on the object below; a state dict carries module versions in `_metadata`, which are dropped.
    fn build(&mut self) -> Result<(), PickleError> {
        let attributes = self.pop()?;
        let object = self.top()?;
        match (self.heap.get(object), self.heap.get(attributes)) {
            (Value::Dict(_), Value::Dict(_)) => Ok(()),
            _ => Err(self.malformed("expected attributes of a dictionary")),
        }
    }

    fn push(&mut self, value: Value) {
        let id = self.heap.add(value);
        self.stack.push(id);
    }

    /// Items below the innermost MARK are out of reach until it is closed.
    fn pop(&mut self) -> Result<Id, PickleError> {
        let id = self.top()?;
        self.stack.pop();
        Ok(id)
    }

    fn top(&self) -> Result<Id, PickleError> {
        let floor = self.marks.last().copied().unwrap_or(0);
        self.stack
            .get(floor..)
            .and_then(<[Id]>::last)
            .copied()
            .ok_or_else(|| self.malformed("expected a value on the stack"))
    }

    fn pop_mark(&mut self) -> Result<Vec<Id>, PickleError> {
        let Some(floor) = self.marks.pop() else { return Err(self.malformed("expected an open MARK")) };
        Ok(self.stack.split_off(floor))
    }

    fn u8(&mut self) -> Result<u8, PickleError> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Result<u32, PickleError> {
        self.take().map(u32::from_le_bytes)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], PickleError> {
        let rest = self.program.get(self.at..).unwrap_or_default();
        let bytes = *rest.first_chunk().ok_or(PickleError::Truncated { offset: self.program.len() })?;
        self.at += N;
        Ok(bytes)
    }

    fn bytes(&mut self, length: usize) -> Result<&'a [u8], PickleError> {
        let end = self.at.checked_add(length);
        let bytes = end.and_then(|end| self.program.get(self.at..end));
        let bytes = bytes.ok_or(PickleError::Truncated { offset: self.program.len() })?;
        self.at += length;
        Ok(bytes)
    }

    fn line(&mut self) -> Result<String, PickleError> {
        let rest = self.program.get(self.at..).unwrap_or_default();
        let length = rest.iter().position(|&byte| byte == b'\n');
        let length = length.ok_or(PickleError::Truncated { offset: self.program.len() })?;
        let line = str::from_utf8(&rest[..length]).map_err(|_| self.malformed("expected a UTF-8 name"))?.to_owned();
        self.at += length + 1;
        Ok(line)
    }

    fn malformed(&self, reason: &'static str) -> PickleError {
        PickleError::Malformed { reason, offset: self.op_at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(program: &[u8]) -> PickleError {
        run(program).unwrap_err()
    }

    #[test]
    fn a_class_outside_the_allowlist_is_refused_by_name() {
        // pickle.dumps of an object whose __reduce__ gives (os.system, ("echo pwned",)), protocol 2
        let program = b"\x80\x02cposix\nsystem\nq\x00X\x0a\x00\x00\x00echo pwnedq\x01\x85q\x02Rq\x03.";
        let expected = PickleError::Global { name: "posix.system".into(), offset: 2 };
        assert_eq!(error(program), expected);
        assert!(expected.to_string().contains("`posix.system` at byte 2"));
        // The same through the protocol 4 instruction.
        assert_eq!(
            error(b"\x80\x04\x8c\x02os\x8c\x06system\x93."),
            PickleError::Global { name: "os.system".into(), offset: 14 }
        );
        // Near misses of allowed names.
        for (module, name) in [("torch", "load"), ("collections", "namedtuple"), ("torch._utils", "_rebuild_tensor")] {
            let program = format!("c{module}\n{name}\n.");
            assert_eq!(error(program.as_bytes()), PickleError::Global { name: format!("{module}.{name}"), offset: 0 });
        }
    }

    #[test]
    fn every_opcode_outside_the_allowlist_is_refused_with_its_place() {
        let known = b"\x80\x95.N\x88\x89KMJ\x8a\x8cX()\x85\x86\x87t]ae}suqr\x94hjc\x93QRb";
        for opcode in (0..=255u8).filter(|opcode| !known.contains(opcode)) {
            assert_eq!(error(&[b'N', opcode, 0, 0]), PickleError::Opcode { opcode, offset: 1 });
        }
    }

    #[test]
    fn integers_of_every_width_keep_their_sign() {
        let cases: [(&[u8], i128); 6] = [
            (b"K\xff.", 255),
            (b"M\x01\x02.", 513),
            (b"J\xff\xff\xff\xff.", -1),
            (b"\x8a\x00.", 0),
            (b"\x8a\x01\xff.", -1),
            (b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", 0x1950_a86a_20f9_469c_fc6c),
        ];
        for (program, expected) in cases {
            let (heap, result, _) = run(program).unwrap();
            assert!(matches!(heap.get(result), Value::Int(value) if *value == expected), "{program:?}");
        }
    }

    #[test]
    fn values_below_an_open_mark_are_out_of_reach() {
        assert!(matches!(error(b"K\x01(0."), PickleError::Opcode { .. }));
        assert!(matches!(error(b"K\x01(\x85."), PickleError::Malformed { offset: 3, .. }));
    }

    #[test]
    fn a_million_nested_tuples_cost_no_call_stack() {
        let mut program = vec![b')'];
        program.resize(1_000_000, 0x85);
        program.push(b'.');
        run(&program).unwrap();
    }

    #[test]
    fn doubling_by_the_memo_costs_no_memory() {
        // t0 = (), t1 = (t0, t0), t2 = (t1, t1), ... 2^100 leaves if it were copied
        let mut program = b")".to_vec();
        for slot in 0..100 {
            program.extend([b'q', slot, b'h', slot, 0x86]);
        }
        program.push(b'.');
        run(&program).unwrap();
    }

    #[test]
    fn no_program_of_random_bytes_panics() {
        let known = b"\x80\x95.N\x88\x89KMJ\x8a\x8cX()\x85\x86\x87t]ae}suqr\x94hjc\x93QRb\x00\x01\x02\n";
        let mut state = 7u64;
        for _ in 0..20_000 {
            let program: Vec<u8> = (0..40)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    known[(state >> 33) as usize % known.len()]
                })
                .collect();
            let _ = run(&program);
        }
    }
}
