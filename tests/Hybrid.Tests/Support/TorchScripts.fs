/// TorchScript files made from their source text: a zip with the program and a pickled module of it.
module Hybrid.Tests.TorchScripts

open System.IO
open System.Text
open Hybrid.Runner.Formats

/// The pickle of a module whose only attributes are `training` and parts of other classes, each as small.
let rec private moduleBytes (name: string) (parts: (string * string) list) : byte[] =
    let text (value: string) =
        let bytes = Encoding.UTF8.GetBytes value
        Array.concat [ [| byte 'X' |]; System.BitConverter.GetBytes(bytes.Length); bytes ]

    let line (value: string) = Encoding.ASCII.GetBytes(value + "\n")

    Array.concat
        [
            // GLOBAL, EMPTY_TUPLE, NEWOBJ, EMPTY_DICT, MARK … SETITEMS, BUILD
            Array.concat [ [| byte 'c' |]; line "__torch__"; line name; [| byte ')'; 0x81uy; byte '}'; byte '(' |] ]
            text "training"
            [| 0x89uy |]
            yield! parts |> List.map (fun (attribute, part) -> Array.append (text attribute) (moduleBytes part []))
            [| byte 'u'; byte 'b' |]
        ]

/// Writes a TorchScript file with these classes; the module is one of class `name`, and has the `parts` (attribute, class).
let write (path: string) (source: string) (name: string) (parts: (string * string) list) : unit =
    use stream = File.Create path
    let zip = TorchZipWriter(stream, "extractor")
    zip.Add("data.pkl", Array.concat [ [| 0x80uy; 2uy |]; moduleBytes name parts; [| byte '.' |] ])
    zip.Add("code/__torch__.py", Encoding.UTF8.GetBytes source)
    zip.Add("constants.pkl", [| 0x80uy; 2uy; byte ')'; byte '.' |])
    zip.Add("version", Encoding.ASCII.GetBytes "4\n")
    zip.Finish()

let private head (name: string) (attributes: string) =
    $"class {name}(Module):\n  __parameters__ = []\n  __buffers__ = []\n  training : bool\n{attributes}"

/// A module with a forward of pictures [B, 3, H, W] that returns an expression of x.
let ofExpression (path: string) (expression: string) : unit =
    let source =
        head "Extractor" ""
        + $"  def forward(self: __torch__.Extractor,\n    x: Tensor) -> Tensor:\n    return {expression}\n"

    write path source "Extractor" []

/// A module in the form of NVIDIA's Inception: forward(x, return_features) on values from 0 to 255, and `layers` on scaled ones.
let inNvidiasForm (path: string) : unit =
    let source =
        head "Extractor" "  layers : __torch__.Layers\n"
        + "  def forward(self: __torch__.Extractor,\n    x: Tensor,\n    return_features: bool=False) -> Tensor:\n"
        + "    layers = self.layers\n    y = (layers).forward(torch.div(torch.sub(x, 128), 128), )\n"
        + "    if return_features:\n      _0 = y\n    else:\n      _0 = torch.mul(y, 1000)\n    return _0\n"
        + head "Layers" ""
        + "  def forward(self: __torch__.Layers,\n    x: Tensor) -> Tensor:\n    return torch.mean(x, [2, 3])\n"

    write path source "Extractor" [ "layers", "Layers" ]
