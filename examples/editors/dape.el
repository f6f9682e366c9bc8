;;; Emacs with dape: safedlv in the place of dlv dap.  -*- lexical-binding: t -*-
(require 'dape)

(add-to-list 'dape-configs
             '(safedlv
               modes (go-mode go-ts-mode)
               command "safedlv"
               command-args ("dap" "--listen" "127.0.0.1::autoport")
               port :autoport
               :type "go"
               :request "attach"
               :mode "local"
               :processId "name:PATTERN")) ; or 1234, "docker:NAME": edit it when dape asks

(add-to-list 'dape-configs
             '(safedlv-sidecar
               modes (go-mode go-ts-mode)
               command "safedlv"
               command-args ("dap" "--listen" "127.0.0.1::autoport")
               port :autoport
               :type "go"
               :request "attach"
               :mode "local"
               :processId "docker:NAME"
               :safedlv (:via "sidecar")))
