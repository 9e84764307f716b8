module Hybrid.Tests.Main
open Expecto
[<EntryPoint>]
let main arguments = runTestsWithCLIArgs [] arguments (testList "all" [ WorldSceneTests.tests; WorldTests.tests ])
