/// What trainers put beside tensors is taken for inert values; what acts is refused.
module Hybrid.Tests.PickleTests

open System.IO
open Expecto
open Hybrid.Runner.Formats
open Hybrid.Tests.FormatsSupport
open Hybrid.Tests.Pickling
open TorchSharp

let private opened (bytes: byte[]) (test: TorchFile -> unit) =
    inFolder (fun folder ->
        let path = Path.Combine(folder, "damaged.ckpt")
        File.WriteAllBytes(path, bytes)
        use file = TorchFile.Open path
        test file)

/// A checkpoint of one tensor beside a value.
let private beside (value: byte[]) : byte[] =
    use _ = torch.NewDisposeScope()
    let storages = Storages()

    storages.Archive(dict [ text "extra", value; text "state_dict", storages.State [ "w", torch.arange(6L).view(2L, 3L) ] ])

let private isWhole (file: TorchFile) =
    use w = file.Load "w"
    Expect.equal (List.ofSeq file.Entries.Keys) [ "w" ] "the tensors of the state dict, and no other"
    Expect.equal (w.reshape(-1L).data<float32>().ToArray()) [| 0.0f .. 5.0f |] "its values"

let tests =
    testList
        "Pickle"
        [
            testCase "a trainer's settings, callbacks, numbers and states stand beside the tensors" (fun () ->
                use _ = torch.NewDisposeScope()
                let storages = Storages()
                let state = text "state_dict", storages.State [ "w", torch.arange(6L).view(2L, 3L) ]

                opened (storages.Archive(dict (trainersExtras @ [ state ]))) (fun file ->
                    isWhole file
                    Expect.equal file.Metadata["global_step"] "1234" "plain numbers are there")

                for extra in trainersExtras do
                    opened (beside (snd extra)) isWhole)

            testCase "an inert value is remembered by its class, and nothing more" (fun () ->
                let settings = withState (make (name "argparse" "Namespace") []) (dict [ text "a", number 1 ])

                opened (beside settings) (fun file ->
                    match file.Root with
                    | :? PickleDict as root ->
                        match root.TryGet "extra" with
                        | true, (:? PickleObject as found) ->
                            Expect.equal (found.Class.ToString()) "argparse.Namespace" "its class"
                        | other -> failtest $"an inert object was expected, not {other}"
                    | other -> failtest $"a dict was expected, not {other}"))

            testCase "a parameter with a state, and a tensor of a class, are their tensors" (fun () ->
                use _ = torch.NewDisposeScope()
                let storages = Storages()
                let tensor = storages.Tensor(torch.ones [| 2L |])

                let parameter =
                    call (name "torch._utils" "_rebuild_parameter_with_state") [ tensor; [| 0x88uy |]; dict []; dict [] ]

                let other = storages.Tensor(torch.zeros [| 2L |])

                let subclass =
                    call
                        (name "torch._tensor" "_rebuild_from_type_v2")
                        [
                            name "torch._utils" "_rebuild_parameter"
                            name "library" "Weight"
                            tuple [ other; [| 0x88uy |]; dict [] ]
                            dict []
                        ]

                opened (storages.Archive(dict [ text "a", parameter; text "b", subclass ])) (fun file ->
                    Expect.equal (List.ofSeq file.Entries.Keys) [ "a"; "b" ] "both are tensors"
                    use a = file.Load "a"
                    use b = file.Load "b"
                    Expect.equal (a.sum().item<float32>()) 2.0f "the first's values"
                    Expect.equal (b.sum().item<float32>()) 0.0f "the second's values"))

            testCase "names that act are refused wherever they stand" (fun () ->
                for m, n in
                    [
                        "os", "system"
                        "posix", "system"
                        "nt", "system"
                        "subprocess", "Popen"
                        "builtins", "eval"
                        "builtins", "exec"
                        "builtins", "getattr"
                        "__builtin__", "__import__"
                        "importlib", "import_module"
                        "runpy", "run_path"
                        "shutil", "rmtree"
                        "socket", "socket"
                        "ctypes", "CDLL"
                        "pickle", "loads"
                        "_pickle", "loads"
                        "webbrowser", "open"
                        "operator", "attrgetter"
                        "io", "open"
                        "_io", "FileIO"
                        "torch", "load"
                        "torch.hub", "load"
                        "torch.jit._script", "ScriptModule"
                        "torch.utils.cpp_extension", "load_inline"
                        "numpy", "load"
                        "numpy", "fromfile"
                        "numpy.testing._private.utils", "runstring"
                        "numpy", "os.system"
                        "library.os", "system"
                        "library", "subprocess.run"
                        "pip", "main"
                    ] do
                    for value in
                        [ name m n; call (name m n) [ text "touch executed" ]; make (name m n) [ text "touch executed" ] ] do
                        inFolder (fun folder ->
                            let path = Path.Combine(folder, "damaged.ckpt")
                            File.WriteAllBytes(path, beside value)
                            let message = refusal (fun () -> TorchFile.Open(path).Dispose())
                            Expect.stringContains message $"{m}.{n}" "the name is named"
                            Expect.isFalse (File.Exists "executed") "nothing ran"))

            testCase "an inert value is no tensor and no function" (fun () ->
                let settings = make (name "library" "Settings") []

                for value, part in
                    [
                        call settings [ number 1 ], "no name is called"
                        call (name "torch._utils" "_rebuild_parameter") [ settings ], "not made of a tensor"
                        call
                            (name "torch._tensor" "_rebuild_from_type_v2")
                            [ name "torch._tensor" "_rebuild_from_type_v2"; number 1; tuple []; number 1 ],
                        "not made of a function"
                        ofBytes [ settings; [| byte 'Q' |] ], "storage"
                    ] do
                    inFolder (fun folder ->
                        let path = Path.Combine(folder, "damaged.ckpt")
                        File.WriteAllBytes(path, beside value)
                        Expect.stringContains (refusal (fun () -> TorchFile.Open(path).Dispose())) part "the sentence"))

            damagedFilesAreRefused
                "a damaged trainer's checkpoint is read or refused, nothing else"
                ".ckpt"
                (fun () ->
                    use _ = torch.NewDisposeScope()
                    let storages = Storages()
                    let state = text "state_dict", storages.State [ "w", torch.arange(6L).view(2L, 3L) ]
                    storages.Archive(dict (trainersExtras @ [ state ])))
                (fun path ->
                    use file = TorchFile.Open path
                    loadAll file)
        ]
