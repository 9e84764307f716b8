/// Pickles and checkpoints of torch.save, written piece by piece: what the tests of checkpoints share.
module Hybrid.Tests.Pickling

open System
open System.IO
open System.IO.Compression
open System.Text
open TorchSharp

let ofBytes (parts: byte[] list) : byte[] = Array.concat parts

let text (s: string) : byte[] =
    ofBytes [ [| byte 'X' |]; BitConverter.GetBytes(Encoding.UTF8.GetByteCount s); Encoding.UTF8.GetBytes s ]

let number (n: int) : byte[] = ofBytes [ [| byte 'J' |]; BitConverter.GetBytes n ]
let tuple (items: byte[] list) : byte[] = ofBytes [ [| byte '(' |]; ofBytes items; [| byte 't' |] ]
let list (items: byte[] list) : byte[] = ofBytes [ "](" |> Encoding.ASCII.GetBytes; ofBytes items; [| byte 'e' |] ]
let name (m: string) (n: string) : byte[] = Encoding.ASCII.GetBytes $"c{m}\n{n}\n"
let call (f: byte[]) (arguments: byte[] list) : byte[] = ofBytes [ f; tuple arguments; [| byte 'R' |] ]

/// cls.__new__(cls, *arguments)
let make (cls: byte[]) (arguments: byte[] list) : byte[] = ofBytes [ cls; tuple arguments; [| 0x81uy |] ]

/// An object, and what its __setstate__ would be given.
let withState (value: byte[]) (state: byte[]) : byte[] = ofBytes [ value; state; [| byte 'b' |] ]

let items (pairs: (byte[] * byte[]) list) : byte[] =
    ofBytes [ [| byte '(' |]; pairs |> List.map (fun (k, v) -> ofBytes [ k; v ]) |> ofBytes; [| byte 'u' |] ]

let dict (pairs: (byte[] * byte[]) list) : byte[] = ofBytes [ [| byte '}' |]; items pairs ]

/// The pickle of a value under torch.save's zip format, with its storages.
let archive (value: byte[]) (storages: (string * byte[]) list) : byte[] =
    use stream = new MemoryStream()

    using (new ZipArchive(stream, ZipArchiveMode.Create, true)) (fun zip ->
        let add (name: string) (bytes: byte[]) =
            use entry = zip.CreateEntry(name, CompressionLevel.NoCompression).Open()
            entry.Write(bytes, 0, bytes.Length)

        add "a/data.pkl" (ofBytes [ [| 0x80uy; 2uy |]; value; [| byte '.' |] ])

        for key, bytes in storages do
            add $"a/data/{key}" bytes)

    stream.ToArray()

/// Gathers the storages of a checkpoint's float32 tensors while its pickle is written.
type Storages() =
    let storages = ResizeArray<string * byte[]>()

    /// A tensor, as torch.save writes it.
    member _.Tensor(tensor: torch.Tensor) : byte[] =
        use flat = tensor.detach().``to``(torch.float32).contiguous().reshape -1L
        let values = flat.data<float32>().ToArray()
        let key = string storages.Count
        storages.Add(key, Runtime.InteropServices.MemoryMarshal.AsBytes(ReadOnlySpan values).ToArray())
        let strides = Array.scanBack (fun length step -> length * step) tensor.shape[1..] 1L

        call
            (name "torch._utils" "_rebuild_tensor_v2")
            [
                ofBytes
                    [
                        tuple [ text "storage"; name "torch" "FloatStorage"; text key; text "cpu"; number values.Length ]
                        [| byte 'Q' |]
                    ]
                number 0
                tuple [ for length in tensor.shape -> number (int length) ]
                tuple [ for step in (if tensor.shape.Length = 0 then [||] else strides) -> number (int step) ]
                [| 0x89uy |]
                call (name "collections" "OrderedDict") []
            ]

    /// A state dict.
    member storages.State(tensors: (string * torch.Tensor) seq) : byte[] =
        ofBytes
            [
                call (name "collections" "OrderedDict") []
                items [ for name, tensor in tensors -> text name, storages.Tensor tensor ]
            ]

    /// The checkpoint's bytes.
    member _.Archive(value: byte[]) : byte[] = archive value (List.ofSeq storages)

/// What trainers keep beside the state dict: none of it is a tensor, all of it is harmless.
let trainersExtras: (byte[] * byte[]) list =
    let node (kind: string) state = withState (make (name "omegaconf.nodes" kind) []) (dict state)

    let double =
        withState (call (name "numpy" "dtype") [ text "f8"; [| 0x89uy |]; [| 0x88uy |] ]) (tuple [ number 3 ])

    [
        text "epoch", number 7
        text "global_step", number 1234
        text "pytorch-lightning_version", text "1.8.3"
        text "callbacks",
        dict
            [
                name "pytorch_lightning.callbacks.model_checkpoint" "ModelCheckpoint",
                dict
                    [
                        text "best_model_score",
                        call
                            (name "numpy.core.multiarray" "scalar")
                            [ double; call (name "_codecs" "encode") [ text "01234567"; text "latin1" ] ]
                        text "dirpath", call (name "pathlib" "PosixPath") [ text "runs" ]
                    ]
            ]
        text "optimizer_states",
        list
            [
                ofBytes [ call (name "collections" "defaultdict") [ name "builtins" "dict" ]; items [ text "lr", number 1 ] ]
            ]
        text "args", withState (make (name "argparse" "Namespace") []) (dict [ text "codebook_size", number 16384 ])
        text "hyper_parameters",
        withState
            (make (name "omegaconf.dictconfig" "DictConfig") [])
            (dict
                [
                    text "_content", dict [ text "lr", node "AnyNode" [ text "_val", number 1 ] ]
                    text "_parent", [| byte 'N' |]
                ])
        text "loops",
        ofBytes [ make (name "collections" "deque") []; Encoding.ASCII.GetBytes "("; number 1; number 2; [| byte 'e' |] ]
        text "modes", ofBytes [ [| 0x8Fuy; byte '(' |]; text "a"; text "b"; [| 0x90uy |] ]
        // A number of 80 bits, as random generators have them.
        text "seed", ofBytes [ [| 0x8Auy; 10uy |]; Array.create 10 0x55uy ]
    ]
