/// Vectors of fp32 numbers, loaded from bf16 memory and stored there: what passes over host memory are written in. Vectors have 512
/// bits, which the runtime halves where the processor has none.
module internal Hybrid.Vectors

// Rows are read and written by address.
#nowarn "9"

open System
open System.Runtime.Intrinsics
open System.Runtime.Intrinsics.X86
open Microsoft.FSharp.NativeInterop

type Lanes = Vector512<float32>

/// A row of bf16 numbers.
type Row = nativeptr<uint16>

/// Numbers of a vector.
[<Literal>]
let lanes = 16

/// A number of bf16, which is the upper half of an fp32 one.
let inline widenOne (bits: uint16) : float32 = BitConverter.UInt32BitsToSingle(uint32 bits <<< 16)

/// The nearest number of bf16, ties to even.
let inline narrowOne (value: float32) : uint16 =
    let bits = BitConverter.SingleToUInt32Bits value
    uint16 ((bits + 0x7FFFu + ((bits >>> 16) &&& 1u)) >>> 16)

/// Numbers of bf16, each in the lower half of its lane.
let inline widened (bits: Vector512<uint32>) : Lanes = Vector512.AsSingle(Vector512.ShiftLeft(bits, 16))

/// The nearest numbers of bf16, ties to even, each in the lower half of its lane.
let inline narrowed (v: Lanes) : Vector512<uint32> =
    let bits = Vector512.AsUInt32 v
    let odd = Vector512.BitwiseAnd(Vector512.ShiftRightLogical(bits, 16), Vector512<uint32>.One)
    Vector512.ShiftRightLogical(bits + odd + Vector512.Create 0x7FFFu, 16)

let inline load (row: Row) (i: int) : Lanes =
    let bits = Vector256.Load(NativePtr.add row i)

    let wide =
        if Avx512F.IsSupported then
            Avx512F.ConvertToVector512UInt32 bits
        else
            Vector512.WidenLower(Vector256.ToVector512Unsafe bits)

    widened wide

let inline store (row: Row) (i: int) (v: Lanes) : unit =
    let rounded = narrowed v

    let narrow =
        if Avx512F.IsSupported then
            Avx512F.ConvertToVector256UInt16 rounded
        else
            Vector256.Narrow(Vector512.GetLower rounded, Vector512.GetUpper rounded)

    Vector256.Store(narrow, NativePtr.add row i)

let inline get (row: Row) (i: int) : float32 = widenOne (NativePtr.get row i)
let inline set (row: Row) (i: int) (value: float32) : unit = NativePtr.set row i (narrowOne value)

let inline loadSingles (row: nativeptr<float32>) (i: int) : Lanes = Vector512.Load(NativePtr.add row i)
let inline storeSingles (row: nativeptr<float32>) (i: int) (v: Lanes) : unit = Vector512.Store(v, NativePtr.add row i)

/// a · b + c
let inline fused (a: Lanes) (b: Lanes) (c: Lanes) : Lanes = Vector512.FusedMultiplyAdd(a, b, c)

let inline all (value: float32) : Lanes = Vector512.Create value

/// The largest lane.
let inline top (v: Lanes) : float32 =
    let half = Vector256.Max(Vector512.GetLower v, Vector512.GetUpper v)
    let quarter = Vector128.Max(Vector256.GetLower half, Vector256.GetUpper half)
    let mutable most = quarter.GetElement 0

    for lane in 1..3 do
        most <- max most (quarter.GetElement lane)

    most

/// e^x as 2^(whole part) times a polynomial of the rest, which lies within ± ln 2 / 2; relative error below 2e-7 within ±87, the
/// limits beyond.
let inline exponential (x: Lanes) : Lanes =
    // In this order NaN, which processors take from the second place, stays NaN.
    let x = Vector512.MaxNative(all -87.0f, Vector512.MinNative(all 87.0f, x))
    let whole = Vector512.Floor(fused x (all (1.0f / MathF.Log 2.0f)) (all 0.5f))
    // ln 2 in two parts, the first exact with few bits, so that the rest keeps its last ones.
    let rest = fused whole (all (-355.0f / 512.0f)) x
    let rest = fused whole (all (float32 (355.0 / 512.0 - 0.693147180559945309))) rest
    let p = fused (all (1.0f / 5040.0f)) rest (all (1.0f / 720.0f))
    let p = fused p rest (all (1.0f / 120.0f))
    let p = fused p rest (all (1.0f / 24.0f))
    let p = fused p rest (all (1.0f / 6.0f))
    let p = fused p rest (all 0.5f)
    let p = fused p rest Lanes.One
    let p = fused p rest Lanes.One
    let power = Vector512.ShiftLeft(Vector512.ConvertToInt32 whole + Vector512.Create 127, 23)
    p * Vector512.AsSingle power

let inline sigmoid (x: Lanes) : Lanes = Lanes.One / (Lanes.One + exponential (Vector512.Negate x))

let inline sigmoidOne (x: float32) : float32 = 1.0f / (1.0f + MathF.Exp -x)
