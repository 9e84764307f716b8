/// Calls of torch operators that TorchSharp does not wrap, through libtorch's stable C interface (torch/csrc/stable/c/shim.h):
/// the ABI is fixed over the 2.x versions, and autograd records these calls like any other.
module Hybrid.Dispatcher

// The native stack is passed by address.
#nowarn "9"

open System
open System.Runtime.InteropServices
open TorchSharp

module private Native =
    [<DllImport("torch_cpu")>]
    extern int torch_call_dispatcher(nativeint op, nativeint overload, uint64* stack, uint64 version)

    [<DllImport("torch_cpu")>]
    extern int aoti_torch_new_tensor_handle(nativeint original, nativeint& copy)

    [<DllImport("torch_cpu")>]
    extern int torch_new_list_reserve_size(unativeint size, nativeint& list)

    [<DllImport("torch_cpu")>]
    extern int torch_new_string_handle(nativeint text, unativeint length, nativeint& handle)

    [<DllImport("torch_cpu")>]
    extern int torch_list_push_back(nativeint list, uint64 element)

    [<DllImport("torch_cpu")>]
    extern int aoti_torch_get_data_ptr(nativeint tensor, nativeint& pointer)

/// The interface's version that this module was written for: libtorch 2.10.
let private version = 0x020A000000000000UL

/// One argument of an operator's schema.
type Argument =
    /// A tensor that must be there
    | Tensor of torch.Tensor
    /// Tensor? that is given
    | SomeTensor of torch.Tensor
    /// A list of tensors
    | Tensors of torch.Tensor list
    /// An int64 that must be there
    | Integer of int64
    /// int? that is given
    | SomeInteger of int64
    /// A list of int64
    | Integers of int64 list
    /// A double that must be there
    | Number of float
    /// float? that is given
    | SomeNumber of float
    /// A boolean
    | Flag of bool
    /// str
    | Word of string
    /// Any optional argument that is left out
    | Absent

let private require (what: string) (code: int) =
    if code <> 0 then
        raise (InvalidOperationException $"torch refused {what}; its reason stands on standard error.")

// The stack takes ownership of the handles on it, so it gets copies (a copy shares the tensor).
let internal handle (tensor: torch.Tensor) : uint64 =
    let mutable copy = 0n
    require "a tensor handle" (Native.aoti_torch_new_tensor_handle (tensor.Handle, &copy))
    uint64 copy

let internal list (elements: uint64 list) : uint64 =
    let mutable list = 0n
    require "a list" (Native.torch_new_list_reserve_size (unativeint elements.Length, &list))

    for element in elements do
        require "a list's element" (Native.torch_list_push_back (list, element))

    uint64 list

let internal wordOf (utf8: byte[]) : uint64 =
    let mutable handle = 0n
    use pinned = fixed utf8

    require
        "a string"
        (Native.torch_new_string_handle (NativeInterop.NativePtr.toNativeInt pinned, unativeint utf8.Length, &handle))

    uint64 handle

let private word (text: string) : uint64 = wordOf (System.Text.Encoding.UTF8.GetBytes text)

/// An optional's value stands in a box of 8 bytes that torch frees.
let internal boxed (value: uint64) : uint64 =
    let box = NativeMemory.Alloc 8un |> NativeInterop.NativePtr.ofVoidPtr<uint64>
    NativeInterop.NativePtr.write box value
    uint64 (NativeInterop.NativePtr.toNativeInt box)

let private push (argument: Argument) : uint64 =
    match argument with
    | Tensor tensor -> handle tensor
    | SomeTensor tensor -> boxed (handle tensor)
    | Tensors tensors -> list (tensors |> List.map handle)
    | Integer value -> uint64 value
    | SomeInteger value -> boxed (uint64 value)
    | Integers values -> list (values |> List.map uint64)
    | Number value -> BitConverter.DoubleToUInt64Bits value
    | SomeNumber value -> boxed (BitConverter.DoubleToUInt64Bits value)
    | Flag value -> if value then 1UL else 0UL
    | Word value -> word value
    | Absent -> 0UL

/// An operator that is called often: without a list of arguments, and with names that were made once and live as long as the program.
[<Sealed>]
type internal Operator(name: string, overload: string) =
    let native = Marshal.StringToCoTaskMemUTF8 name
    let nativeOverload = Marshal.StringToCoTaskMemUTF8 overload

    /// Calls the operator on a stack of its arguments, which its results then replace. Errors: InvalidOperationException when torch
    /// refuses the call.
    member internal _.Run(stack: Span<uint64>) : unit =
        use pinned = fixed stack
        require name (Native.torch_call_dispatcher (native, nativeOverload, pinned, version))

/// Calls an operator, such as "aten::rms_norm", and returns its tensors: `results` of them, in the schema's order.
/// Errors: InvalidOperationException when torch refuses the call.
let call (operator: string) (overload: string) (arguments: Argument list) (results: int) : torch.Tensor list =
    let stack = Array.zeroCreate<uint64>(max results arguments.Length)
    arguments |> List.iteri (fun i argument -> stack[i] <- push argument)
    let op = Marshal.StringToCoTaskMemUTF8 operator
    let over = Marshal.StringToCoTaskMemUTF8 overload

    try
        use pinned = fixed stack
        require operator (Native.torch_call_dispatcher (op, over, pinned, version))
    finally
        Marshal.FreeCoTaskMem op
        Marshal.FreeCoTaskMem over

    [ for i in 0 .. results - 1 -> torch.Tensor.UnsafeCreateTensor(nativeint stack[i]) ]

/// x / √(mean x² + ε) · weight over the last axis of length D; computed in fp32 whatever the element type.
let rmsNorm (weight: torch.Tensor) (epsilon: float) (x: torch.Tensor) : torch.Tensor =
    call "aten::rms_norm" "" [ Tensor x; Integers [ weight.shape[0] ]; SomeTensor weight; SomeNumber epsilon ] 1
    |> List.head

/// GELU by its tanh approximation (Hendrycks & Gimpel 2016).
let geluTanh (x: torch.Tensor) : torch.Tensor = call "aten::gelu" "" [ Tensor x; Word "tanh" ] 1 |> List.head

/// Rows of a table [R, D] by int64 indices [...]: [..., D].
let embedding (table: torch.Tensor) (indices: torch.Tensor) : torch.Tensor =
    call "aten::embedding" "" [ Tensor table; Tensor indices; Integer -1L; Flag false; Flag false ] 1 |> List.head

/// Sums of rows of a table [R, D], each times its weight, for bags that begin at `starts` [N] of the list of indices [T]: [N, D].
/// The gradient of the table is dense.
let embeddingBag (table: torch.Tensor) (indices: torch.Tensor) (starts: torch.Tensor) (weights: torch.Tensor) : torch.Tensor =
    let results =
        call
            "aten::_embedding_bag"
            ""
            [
                Tensor table
                Tensor indices
                Tensor starts
                Flag false
                Integer 0L
                Flag false
                SomeTensor weights
                Flag false
                Integer -1L
            ]
            4

    for other in List.tail results do
        other.Dispose()

    List.head results

/// One AdamW update of several fp32 tensors in place (Loshchilov & Hutter 2019, decoupled decay). `steps` are fp32 scalars already
/// counted up; where `skip` holds 1 nothing is changed.
let fusedAdamW
    (parameters: torch.Tensor list)
    (gradients: torch.Tensor list)
    (first: torch.Tensor list)
    (second: torch.Tensor list)
    (steps: torch.Tensor list)
    (learningRate: float)
    (beta1: float, beta2: float)
    (weightDecay: float)
    (epsilon: float)
    (skip: torch.Tensor)
    : unit =
    call
        "aten::_fused_adamw_"
        ""
        [
            Tensors parameters
            Tensors gradients
            Tensors first
            Tensors second
            Tensors []
            Tensors steps
            Number learningRate
            Number beta1
            Number beta2
            Number weightDecay
            Number epsilon
            Flag false
            Flag false
            Absent
            SomeTensor skip
        ]
        0
    |> ignore

/// The address of a tensor's first element, for reading and writing host tensors without a copy.
let dataPointer (tensor: torch.Tensor) : nativeint =
    let mutable pointer = 0n
    require "a data pointer" (Native.aoti_torch_get_data_ptr (tensor.Handle, &pointer))
    pointer
